#include "permute_rows_op.h"

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <stdexcept>

#include "huge_pages.h"
#include "permute_rows.h"

namespace mars {

void check_permute_rows(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index) {
  TORCH_CHECK_VALUE(index.scalar_type() == at::kLong && inverse_index.scalar_type() == at::kLong,
                    "indices must be int64, got ", index.scalar_type(), " and ", inverse_index.scalar_type());
  TORCH_CHECK_VALUE(x.dim() > 0 && index.dim() == 1 && inverse_index.dim() == 1 &&
                        inverse_index.sym_size(0).sym_eq(x.sym_size(0)).expect_true(__FILE__, __LINE__),
                    "indices must be 1-dimensional, the inverse with one entry for each row of x; got shapes ",
                    index.sym_sizes(), ", ", inverse_index.sym_sizes(), " and ", x.sym_sizes());
  TORCH_CHECK_VALUE(index.device() == x.device() && inverse_index.device() == x.device(),
                    "x and its indices must be on one device, got ", x.device(), ", ", index.device(), " and ",
                    inverse_index.device());
  TORCH_CHECK_VALUE(x.sym_size(0).sym_gt(0).expect_true(__FILE__, __LINE__) &&
                        index.sym_size(0).sym_gt(0).expect_true(__FILE__, __LINE__),
                    "there must be rows to read and to write, got ", x.sym_size(0), " and ", index.sym_size(0));
}

namespace {

// Fewer bytes than this are not worth waking a thread.
constexpr int64_t kBytesPerThread = 64 * 1024;

at::Tensor permute_rows_cpu(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index) {
  check_permute_rows(x, index, inverse_index);
  const at::Tensor source = x.contiguous();
  const at::Tensor order = index.contiguous();
  const at::Tensor out = empty_rows(permuted_shape(source, order), source.scalar_type());

  const int64_t row_bytes = bytes_per_row(source);
  const auto* in = static_cast<const std::byte*>(source.const_data_ptr());
  auto* target = static_cast<std::byte*>(out.mutable_data_ptr());
  const int64_t* rows = order.const_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(kBytesPerThread / std::max<int64_t>(row_bytes, 1), 1);
  try {
    at::parallel_for(0, order.numel(), grain, [&](int64_t begin, int64_t end) {
      permute_rows(in, source.size(0), rows, begin, end, static_cast<size_t>(row_bytes), target);
    });
  } catch (const std::out_of_range& error) {
    TORCH_CHECK_INDEX(false, error.what());  // the autograd engine makes IndexError of this type only
  }
  return out;
}

// Shapes alone: for fake tensors, torch.compile and the meta device.
at::Tensor permute_rows_meta(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index) {
  check_permute_rows(x, index, inverse_index);
  c10::SymDimVector shape(x.sym_sizes());
  shape[0] = index.sym_size(0);
  return at::empty_symint(shape, x.options());
}

at::Tensor call(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mars_megatron::permute_rows", "")
                             .typed<decltype(permute_rows_cpu)>();
  return op.call(x, index, inverse_index);
}

// The backward gathers by the inverse, which is the scatter of the forward. It is the operator itself, and so
// differentiable again.
class PermuteRows : public torch::autograd::Function<PermuteRows> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& index, const at::Tensor& inverse_index) {
    context->save_for_backward({index, inverse_index});
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call(x, index, inverse_index);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    return {call(grads[0], saved[1], saved[0]), at::Tensor(), at::Tensor()};
  }
};

at::Tensor permute_rows_autograd(const at::Tensor& x, const at::Tensor& index, const at::Tensor& inverse_index) {
  return PermuteRows::apply(x, index, inverse_index);
}

}  // namespace

TORCH_LIBRARY(mars_megatron, library) {
  library.def("permute_rows(Tensor x, Tensor index, Tensor inverse_index) -> Tensor",
              {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(mars_megatron, CPU, library) { library.impl("permute_rows", &permute_rows_cpu); }

TORCH_LIBRARY_IMPL(mars_megatron, Meta, library) { library.impl("permute_rows", &permute_rows_meta); }

TORCH_LIBRARY_IMPL(mars_megatron, Autograd, library) { library.impl("permute_rows", &permute_rows_autograd); }

}  // namespace mars
