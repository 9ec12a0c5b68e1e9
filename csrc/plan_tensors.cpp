#include "plan_tensors.h"

#include <ATen/ops/empty.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace mars {
namespace {

void check(const at::Tensor& value, at::ScalarType dtype, int64_t dim, const std::string& name) {
  if (value.scalar_type() != dtype || value.dim() != dim || !value.device().is_cpu() ||
      value.layout() != at::kStrided) {
    std::ostringstream message;
    message << name << " must be a " << dim << "-dimensional " << dtype << " tensor on the CPU, got " << value.dim()
            << " dimensions, " << value.scalar_type() << ", " << value.device() << ", layout " << value.layout();
    throw std::invalid_argument(message.str());
  }
}

at::Tensor copy_offsets(const at::Tensor& cu_seqlens) {
  check(cu_seqlens, at::kInt, 1, "cu_seqlens");
  return cu_seqlens.clone(at::MemoryFormat::Contiguous);
}

at::Tensor empty_indices(int64_t size) { return at::empty({size}, at::kLong); }

int64_t* write(const at::Tensor& indices) { return indices.mutable_data_ptr<int64_t>(); }

PlanTensors fill(PlanLayout layout, at::Tensor cu_seqlens) {
  PlanTensors plan;
  plan.layout = std::move(layout);
  plan.cu_seqlens = std::move(cu_seqlens);
  plan.position_ids = empty_indices(plan.layout.num_rows());
  plan.text_block = empty_indices(plan.layout.num_rows());
  plan.sequence_to_sorted = empty_indices(plan.layout.num_tokens);
  plan.sorted_to_sequence = empty_indices(plan.layout.num_rows());
  plan.padded_to_sorted = empty_indices(plan.layout.num_places());
  plan.sorted_to_padded = empty_indices(plan.layout.num_rows());
  fill_plan(plan.layout, plan.cu_seqlens.const_data_ptr<int32_t>(),
            {write(plan.position_ids), write(plan.text_block), write(plan.sequence_to_sorted),
             write(plan.sorted_to_sequence), write(plan.padded_to_sorted), write(plan.sorted_to_padded)});
  return plan;
}

}  // namespace

PlanTensors build_plan(const at::Tensor& modality, const at::Tensor& cu_seqlens, int64_t row_multiple,
                       std::optional<int64_t> total_rows) {
  check(modality, at::kByte, 1, "modality");
  const at::Tensor dense = modality.contiguous();
  at::Tensor offsets = copy_offsets(cu_seqlens);
  PlanLayout layout = layout_plan(dense.const_data_ptr<uint8_t>(), dense.numel(),
                                  offsets.const_data_ptr<int32_t>(), offsets.numel(), row_multiple, total_rows);
  return fill(std::move(layout), std::move(offsets));
}

}  // namespace mars
