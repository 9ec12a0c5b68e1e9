#include "tensors.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "permute_rows.h"

namespace mars {
namespace {

// Fewer bytes than this are not worth waking a thread.
constexpr int64_t kBytesPerThread = 64 * 1024;

void check_vector(const at::Tensor& value, at::ScalarType dtype, const std::string& name) {
  if (value.scalar_type() != dtype || value.dim() != 1 || !value.device().is_cpu() ||
      value.layout() != at::kStrided) {
    throw std::invalid_argument(name + " must be a 1-dimensional " + c10::toString(dtype) +
                                " tensor on the CPU, got " + std::to_string(value.dim()) + " dimensions, " +
                                c10::toString(value.scalar_type()) + ", " + value.device().str());
  }
}

at::Tensor empty_indices(at::IntArrayRef shape) { return at::empty(shape, at::kLong); }

int64_t* write(const at::Tensor& indices) { return indices.mutable_data_ptr<int64_t>(); }

at::Tensor runs_tensor(const std::vector<Run>& runs) {
  static_assert(sizeof(Run) == 4 * sizeof(int64_t), "a run is a row of the tensor");
  at::Tensor out = empty_indices({static_cast<int64_t>(runs.size()), 4});
  std::memcpy(out.mutable_data_ptr(), runs.data(), runs.size() * sizeof(Run));
  return out;
}

}  // namespace

PlanTensors build_plan(const at::Tensor& modality, const at::Tensor& cu_seqlens, int64_t row_multiple,
                       std::optional<int64_t> total_rows) {
  check_vector(modality, at::kByte, "modality");
  check_vector(cu_seqlens, at::kInt, "cu_seqlens");
  const at::Tensor dense = modality.contiguous();
  PlanTensors plan;
  plan.cu_seqlens = cu_seqlens.clone(at::MemoryFormat::Contiguous);
  const int32_t* offsets = plan.cu_seqlens.const_data_ptr<int32_t>();
  plan.layout = layout_plan(dense.const_data_ptr<uint8_t>(), dense.numel(), offsets, plan.cu_seqlens.numel(),
                            row_multiple, total_rows);
  plan.runs = runs_tensor(plan.layout.runs);
  plan.position_ids = empty_indices({plan.layout.num_rows()});
  plan.sequence_to_sorted = empty_indices({plan.layout.num_tokens});
  plan.sorted_to_sequence = empty_indices({plan.layout.num_rows()});
  plan.padded_to_sorted = empty_indices({plan.layout.num_places()});
  plan.sorted_to_padded = empty_indices({plan.layout.num_rows()});
  fill_plan(plan.layout, offsets,
            {write(plan.position_ids), write(plan.sequence_to_sorted), write(plan.sorted_to_sequence),
             write(plan.padded_to_sorted), write(plan.sorted_to_padded)});
  return plan;
}

at::Tensor permute_rows(const at::Tensor& x, const at::Tensor& index) {
  if (x.dim() == 0 || !x.device().is_cpu() || x.layout() != at::kStrided) {
    throw std::invalid_argument("x must be a dense CPU tensor of at least 1 dimension, got " +
                                std::to_string(x.dim()) + " dimensions on " + x.device().str());
  }
  check_vector(index, at::kLong, "index");
  // Lazy conjugation and negation are flags of the tensor, which a copy of its bytes would lose.
  const at::Tensor source = x.resolve_conj().resolve_neg().contiguous();
  const at::Tensor order = index.contiguous();
  at::DimVector shape(source.sizes());
  shape[0] = order.numel();
  at::Tensor out = at::empty(shape, source.options());

  const int64_t row_numel = c10::multiply_integers(source.sizes().slice(1));
  const int64_t row_bytes = row_numel * static_cast<int64_t>(source.itemsize());
  const auto* in = static_cast<const std::byte*>(source.const_data_ptr());
  auto* target = static_cast<std::byte*>(out.mutable_data_ptr());
  const int64_t* rows = order.const_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(kBytesPerThread / std::max<int64_t>(row_bytes, 1), 1);
  at::parallel_for(0, order.numel(), grain, [&](int64_t begin, int64_t end) {
    permute_rows(in, source.size(0), rows, begin, end, static_cast<size_t>(row_bytes), target);
  });
  return out;
}

}  // namespace mars
