// mars_megatron::permute_rows for torch: what its kernels share. The schema is in permute_rows_op.cpp.
#pragma once

#include <ATen/core/Tensor.h>

namespace mars {

// Raises ValueError unless
//   x              [rows, ...], rows > 0, any dtype
//   index          int64 [out rows], out rows > 0, on the device of x
//   inverse_index  int64 [rows], likewise
// Sizes may be symbolic. Values are for the kernels to check.
void check_permute_rows(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index);

}  // namespace mars
