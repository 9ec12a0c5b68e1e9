// mars_megatron._C. pybind11 turns std::invalid_argument into ValueError. Loading it also registers the
// operators of torch.ops.mars_megatron (permute_rows_op.cpp).
#include <torch/csrc/utils/pybind.h>

#include "huge_pages.h"
#include "plan_tensors.h"
#include "round_plan_bindings.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

// Raised with every change of what Python calls: sequence/native.py compares it with its own.
constexpr int kInterface = 4;

// Fields of DispatchPlan (sequence/plan.py).
py::dict fields(const mars::PlanTensors& plan, int64_t row_multiple) {
  const mars::PlanLayout& layout = plan.layout;
  return py::dict(
      "num_tokens"_a = layout.num_tokens, "num_samples"_a = layout.num_samples,
      "num_text"_a = layout.num_text, "num_visual"_a = layout.num_visual,
      "padded_text"_a = layout.padded_text, "padded_visual"_a = layout.padded_visual,
      "row_multiple"_a = row_multiple, "max_seqlen"_a = layout.max_seqlen,
      "num_text_blocks"_a = layout.num_text_blocks, "image_before_text"_a = layout.image_before_text,
      "cu_seqlens"_a = plan.cu_seqlens, "position_ids"_a = plan.position_ids, "text_block"_a = plan.text_block,
      "sequence_to_sorted"_a = plan.sequence_to_sorted, "sorted_to_sequence"_a = plan.sorted_to_sequence,
      "padded_to_sorted"_a = plan.padded_to_sorted, "sorted_to_padded"_a = plan.sorted_to_padded);
}

py::dict build_plan(const at::Tensor& modality, const at::Tensor& cu_seqlens, int64_t row_multiple,
                    std::optional<int64_t> total_rows) {
  mars::PlanTensors plan;
  {
    py::gil_scoped_release release;
    plan = mars::build_plan(modality, cu_seqlens, row_multiple, total_rows);
  }
  return fields(plan, row_multiple);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("build_plan", &build_plan, "modality"_a, "cu_seqlens"_a, "row_multiple"_a, "total_rows"_a);
  module.def("release_kept_memory", &mars::release_kept_memory, py::call_guard<py::gil_scoped_release>());
  mars::bind_round_plan(module);
  module.attr("interface") = kInterface;
}
