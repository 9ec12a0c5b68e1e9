// The CUDA kernel of mars_megatron::permute_rows; compiled with a CUDA torch only.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "permute_rows_cuda.h"
#include "permute_rows_op.h"

namespace mars {
namespace {

at::Tensor permute_rows_on_cuda(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index) {
  check_permute_rows(x, index, inverse_index);
  const c10::cuda::CUDAGuard on_device(x.device());
  const at::Tensor source = x.contiguous();
  const at::Tensor order = index.contiguous();
  at::Tensor out = at::empty(permuted_shape(source, order), source.options());
  // The allocator hands memory out in the order of the current stream, so the copy must go there too.
  C10_CUDA_CHECK(permute_rows_cuda(source.const_data_ptr(), source.size(0), order.const_data_ptr<int64_t>(),
                                   order.numel(), static_cast<size_t>(bytes_per_row(source)),
                                   out.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mars_megatron, CUDA, library) { library.impl("permute_rows", &permute_rows_on_cuda); }

}  // namespace mars
