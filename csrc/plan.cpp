#include "plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace mars {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

// Returns the longest sample.
int64_t check_cu_seqlens(const int32_t* cu_seqlens, int64_t num_offsets, int64_t num_tokens) {
  if (num_offsets < 2) {
    fail("cu_seqlens must have at least 2 entries (one sample), got " + std::to_string(num_offsets));
  }
  if (cu_seqlens[0] != 0 || cu_seqlens[num_offsets - 1] != num_tokens) {
    fail("cu_seqlens must start at 0 and end at the number of tokens, " + std::to_string(num_tokens) + ", got " +
         std::to_string(cu_seqlens[0]) + " and " + std::to_string(cu_seqlens[num_offsets - 1]));
  }
  int64_t longest = 0;
  for (int64_t sample = 0; sample + 1 < num_offsets; ++sample) {
    const int64_t length = int64_t{cu_seqlens[sample + 1]} - cu_seqlens[sample];
    if (length <= 0) {
      fail("cu_seqlens must ascend strictly (no empty sample), not at sample " + std::to_string(sample));
    }
    longest = std::max(longest, length);
  }
  return longest;
}

// Returns the end of the run that starts at `begin`, comparing 8 tokens at a time.
int64_t find_run_end(const uint8_t* modality, int64_t begin, int64_t num_tokens) {
  const uint8_t value = modality[begin];
  uint64_t same, word;
  std::memset(&same, value, sizeof(same));
  int64_t end = begin + 1;
  for (; end + 8 <= num_tokens; end += 8) {
    std::memcpy(&word, modality + end, sizeof(word));
    if (word != same) break;
  }
  while (end < num_tokens && modality[end] == value) ++end;
  return end;
}

// Sets the runs, whose sorted_start counts within the modality until the padding is known, and the counts.
void find_runs(const uint8_t* modality, int64_t num_tokens, PlanLayout& layout) {
  while (layout.num_tokens < num_tokens) {
    const int64_t begin = layout.num_tokens;
    const uint8_t value = modality[begin];
    if (value != kText && value != kVisual) {
      fail("modality must be 0 (text) or 1 (visual), got " + std::to_string(value) + " at token " +
           std::to_string(begin));
    }
    const int64_t length = find_run_end(modality, begin, num_tokens) - begin;
    int64_t& count = value == kText ? layout.num_text : layout.num_visual;
    layout.runs.push_back({begin, count, length, value});
    count += length;
    layout.num_tokens += length;
  }
}

// int32 offsets cannot count more tokens.
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

int64_t pad(int64_t count, int64_t multiple) {
  return std::max<int64_t>(count / multiple + (count % multiple != 0), 1) * multiple;
}

void pad_counts(PlanLayout& layout, int64_t row_multiple, std::optional<int64_t> total_rows) {
  layout.padded_text = pad(layout.num_text, row_multiple);
  layout.padded_visual = pad(layout.num_visual, row_multiple);
  if (!total_rows.has_value()) return;
  if (*total_rows % row_multiple != 0) {
    fail("total_rows must be a multiple of row_multiple " + std::to_string(row_multiple) + ", got " +
         std::to_string(*total_rows));
  }
  if (layout.num_rows() > *total_rows) {
    fail("total_rows " + std::to_string(*total_rows) + " is too small: " + std::to_string(layout.num_text) +
         " text and " + std::to_string(layout.num_visual) + " visual tokens need " +
         std::to_string(layout.padded_text) + " + " + std::to_string(layout.padded_visual) + " rows");
  }
  layout.padded_text = *total_rows - layout.padded_visual;
}

// Sets num_text_blocks and image_before_text. Offsets end at num_tokens, which no run starts at or ends beyond.
void inspect_text(const int32_t* cu_seqlens, PlanLayout& layout) {
  for (const Run& run : layout.runs) {
    if (run.modality != kText) continue;
    while (*cu_seqlens < run.sequence_start) ++cu_seqlens;
    if (*cu_seqlens == run.sequence_start) {
      ++cu_seqlens;
    } else {
      layout.image_before_text = true;  // the run does not start a sample: it follows a visual token of its own
    }
    ++layout.num_text_blocks;
    for (; *cu_seqlens < run.sequence_start + run.length; ++cu_seqlens) ++layout.num_text_blocks;
  }
}

}  // namespace

PlanLayout layout_plan(const uint8_t* modality, int64_t num_tokens, const int32_t* cu_seqlens,
                       int64_t num_offsets, int64_t row_multiple, std::optional<int64_t> total_rows) {
  PlanLayout layout;
  find_runs(modality, num_tokens, layout);
  if (row_multiple < 1 || row_multiple > kMaxTokens) {
    fail("row_multiple must be from 1 to " + std::to_string(kMaxTokens) + ", got " + std::to_string(row_multiple));
  }
  layout.num_samples = num_offsets - 1;
  layout.max_seqlen = check_cu_seqlens(cu_seqlens, num_offsets, layout.num_tokens);
  pad_counts(layout, row_multiple, total_rows);
  for (Run& run : layout.runs) {
    if (run.modality == kVisual) run.sorted_start += layout.padded_text;
  }
  inspect_text(cu_seqlens, layout);
  return layout;
}

namespace {

void fill_ascending(int64_t* out, int64_t length, int64_t start) { std::iota(out, out + length, start); }

void fill_padding(const PlanArrays& arrays, int64_t begin, int64_t end) {
  std::fill(arrays.position_ids + begin, arrays.position_ids + end, 0);
  std::fill(arrays.text_block + begin, arrays.text_block + end, 0);
  std::fill(arrays.sorted_to_sequence + begin, arrays.sorted_to_sequence + end, -1);
  std::fill(arrays.sorted_to_padded + begin, arrays.sorted_to_padded + end, -1);
}

}  // namespace

void fill_plan(const PlanLayout& layout, const int32_t* cu_seqlens, const PlanArrays& arrays) {
  int64_t sample = 0;
  int64_t num_blocks = 0;
  int64_t block = 0;  // the last text block of this sample
  for (const Run& run : layout.runs) {
    // A run is cut where samples end, so that positions ascend by one within each piece.
    const int64_t run_end = run.sequence_start + run.length;
    for (int64_t begin = run.sequence_start; begin < run_end;) {
      const int64_t sample_end = cu_seqlens[sample + 1];
      const int64_t length = std::min(run_end, sample_end) - begin;
      const int64_t row = run.sorted_start + begin - run.sequence_start;
      const int64_t position = begin - cu_seqlens[sample];
      const int64_t place = sample * layout.max_seqlen + position;
      if (run.modality == kText) block = ++num_blocks;
      fill_ascending(arrays.position_ids + row, length, position);
      std::fill(arrays.text_block + row, arrays.text_block + row + length, block);
      fill_ascending(arrays.sequence_to_sorted + begin, length, row);
      fill_ascending(arrays.sorted_to_sequence + row, length, begin);
      fill_ascending(arrays.padded_to_sorted + place, length, row);
      fill_ascending(arrays.sorted_to_padded + row, length, place);
      begin += length;
      if (begin == sample_end) {
        ++sample;
        block = 0;
        std::fill(arrays.padded_to_sorted + place + length,
                  arrays.padded_to_sorted + sample * layout.max_seqlen, -1);
      }
    }
  }
  fill_padding(arrays, layout.num_text, layout.padded_text);
  fill_padding(arrays, layout.padded_text + layout.num_visual, layout.num_rows());
}

}  // namespace mars
