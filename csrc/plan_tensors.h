// The dispatch plan as torch tensors: checks and allocation. No Python.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "plan.h"

namespace mars {

struct PlanTensors {
  PlanLayout layout;
  at::Tensor cu_seqlens;          // int32 [S + 1], a copy
  at::Tensor position_ids;        // int64 [P]
  at::Tensor text_block;          // int64 [P]
  at::Tensor sequence_to_sorted;  // int64 [T]
  at::Tensor sorted_to_sequence;  // int64 [P]
  at::Tensor padded_to_sorted;    // int64 [S * max_seqlen]
  at::Tensor sorted_to_padded;    // int64 [P]
};

// modality: uint8 [T], cu_seqlens: int32 [S + 1], both on the CPU. Throws std::invalid_argument.
PlanTensors build_plan(const at::Tensor& modality, const at::Tensor& cu_seqlens, int64_t row_multiple,
                       std::optional<int64_t> total_rows);

}  // namespace mars
