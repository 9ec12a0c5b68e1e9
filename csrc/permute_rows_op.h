// mars_megatron::permute_rows for torch: what its kernels share. The schema is in permute_rows_op.cpp.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

namespace mars {

// Raises ValueError unless
//   x              [rows, ...], rows > 0, any dtype
//   index          int64 [out rows], out rows > 0, on the device of x
//   inverse_index  int64 [rows], likewise
// Sizes may be symbolic. Values are for the kernels to check.
void check_permute_rows(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index);

// [out rows, ...] of dense x and index.
inline at::DimVector permuted_shape(const at::Tensor& x, const at::Tensor& index) {
  at::DimVector shape(x.sizes());
  shape[0] = index.numel();
  return shape;
}

inline int64_t bytes_per_row(const at::Tensor& x) {
  return c10::multiply_integers(x.sizes().slice(1)) * static_cast<int64_t>(x.itemsize());
}

}  // namespace mars
