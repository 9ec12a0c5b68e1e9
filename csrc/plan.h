// The dispatch plan of one packed micro-batch. Plain C++: no torch, no Python, no threads.
//
// The specification is mars_megatron/sequence/reference.py; what each field means is in mars_megatron/sequence/plan.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace mars {

constexpr uint8_t kText = 0;
constexpr uint8_t kVisual = 1;

// A maximal stretch of tokens of one modality; it may span samples.
struct Run {
  int64_t sequence_start;
  int64_t sorted_start;
  int64_t length;
  int64_t modality;
};

// All that must be known before the arrays can be allocated.
struct PlanLayout {
  int64_t num_tokens = 0;
  int64_t num_samples = 0;
  int64_t num_text = 0;
  int64_t num_visual = 0;
  int64_t padded_text = 0;
  int64_t padded_visual = 0;
  int64_t max_seqlen = 0;
  int64_t num_text_blocks = 0;
  bool image_before_text = false;
  std::vector<Run> runs;

  int64_t num_rows() const { return padded_text + padded_visual; }
  int64_t num_places() const { return num_samples * max_seqlen; }
};

// Where fill_plan writes; each array is allocated by the caller with the size given.
struct PlanArrays {
  int64_t* position_ids;        // [num_rows]
  int64_t* text_block;          // [num_rows]
  int64_t* sequence_to_sorted;  // [num_tokens]
  int64_t* sorted_to_sequence;  // [num_rows], -1 for padding
  int64_t* padded_to_sorted;    // [num_places], -1 for padding
  int64_t* sorted_to_padded;    // [num_rows], -1 for padding
};

// Reads modality [num_tokens] and cu_seqlens [num_offsets] once, checking every value.
// The number of rows is free unless total_rows has a value.
// Throws std::invalid_argument where an input is not what build_plan of sequence/plan.py asks for.
PlanLayout layout_plan(const uint8_t* modality, int64_t num_tokens, const int32_t* cu_seqlens,
                       int64_t num_offsets, int64_t row_multiple, std::optional<int64_t> total_rows);

// Writes every element of the arrays. `layout` must come from the same cu_seqlens.
void fill_plan(const PlanLayout& layout, const int32_t* cu_seqlens, const PlanArrays& arrays);

}  // namespace mars
