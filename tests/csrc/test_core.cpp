// Fuzzes csrc/plan.cpp and csrc/permute_rows.cpp against a naive specification. Meant for the address and
// undefined-behaviour sanitizers: every buffer has exactly its size. No torch, no framework.
//
//   test_core SEED ROUNDS
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/permute_rows.h"
#include "../../csrc/plan.h"

namespace {

std::mt19937_64 engine;

int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }

bool one_in(int64_t n) { return draw(1, n) == 1; }

int64_t draw_extreme() {
  const int64_t values[] = {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(),
                            -(int64_t{1} << 62), int64_t{1} << 62, int64_t{1} << 32, -2, -1, 0, 2, 256};
  return values[draw(0, std::size(values) - 1)];
}

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::cerr << "test_core: wrong: " << what << '\n';
  std::exit(1);
}

// A copy on the heap without a spare byte, so that the sanitizer sees the first step beyond it.
template <typename T>
std::unique_ptr<T[]> exact(const std::vector<T>& values) {
  std::unique_ptr<T[]> copy(new T[values.size()]);
  std::copy(values.begin(), values.end(), copy.get());
  return copy;
}

template <typename Error>
bool throws(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

struct Input {
  std::vector<uint8_t> modality;
  std::vector<int32_t> cu_seqlens;
  int64_t row_multiple = 1;
  std::optional<int64_t> total_rows;
};

Input draw_input() {
  Input input;
  input.cu_seqlens.push_back(0);
  const bool alternating = one_in(3);  // tokens of their own rather than runs
  for (int64_t sample = draw(1, 6); sample > 0; --sample) {
    for (int64_t run = draw(1, 4); run > 0; --run) {
      input.modality.insert(input.modality.end(), alternating ? 1 : draw(1, 20), static_cast<uint8_t>(draw(0, 1)));
    }
    input.cu_seqlens.push_back(static_cast<int32_t>(input.modality.size()));
  }
  input.row_multiple = draw(1, 9);
  if (one_in(2)) input.total_rows = input.row_multiple * draw(0, 40);
  return input;
}

void damage(Input& input) {
  auto& offsets = input.cu_seqlens;
  switch (draw(0, 6)) {
    case 0: input.modality[draw(0, input.modality.size() - 1)] = static_cast<uint8_t>(draw(2, 255)); break;
    case 1: offsets[draw(0, offsets.size() - 1)] = static_cast<int32_t>(engine()); break;
    case 2: offsets[draw(0, offsets.size() - 1)] += static_cast<int32_t>(draw(-2, 2)); break;
    case 3: offsets.resize(draw(0, offsets.size())); break;
    case 4: input.row_multiple = draw_extreme(); break;
    case 5: input.total_rows = draw_extreme(); break;
    case 6: input.modality.resize(draw(0, input.modality.size())); break;
  }
}

int64_t padded(int64_t count, int64_t multiple) {
  int64_t rows = multiple;
  while (rows < count) rows += multiple;
  return rows;
}

bool is_valid(const Input& input) {
  const auto num_tokens = static_cast<int64_t>(input.modality.size());
  const auto& offsets = input.cu_seqlens;
  if (input.row_multiple < 1 || input.row_multiple > std::numeric_limits<int32_t>::max()) return false;
  if (offsets.size() < 2 || offsets.front() != 0 || offsets.back() != num_tokens) return false;
  if (std::adjacent_find(offsets.begin(), offsets.end(), std::greater_equal<>()) != offsets.end()) return false;
  int64_t count[2] = {0, 0};
  for (const uint8_t modality : input.modality) {
    if (modality > 1) return false;
    ++count[modality];
  }
  if (!input.total_rows) return true;
  const int64_t needed = padded(count[0], input.row_multiple) + padded(count[1], input.row_multiple);
  return *input.total_rows % input.row_multiple == 0 && *input.total_rows >= needed;
}

void check_tokens(const Input& input, const mars::PlanLayout& layout, const mars::PlanArrays& arrays) {
  int64_t next_row[2] = {0, layout.padded_text};
  std::vector<bool> is_padding_row(layout.num_rows(), true);
  std::vector<bool> is_padding_place(layout.num_places(), true);
  int64_t num_blocks = 0, block = 0, sample = 0;
  bool image_before_text = false, image_seen = false;
  for (int64_t token = 0; token < layout.num_tokens; ++token) {
    if (token == input.cu_seqlens[sample + 1]) {
      ++sample;
      block = 0;
      image_seen = false;
    }
    const int64_t position = token - input.cu_seqlens[sample];
    const uint8_t modality = input.modality[token];
    if (modality == 0 && (position == 0 || input.modality[token - 1] == 1)) block = ++num_blocks;
    image_before_text |= modality == 0 && image_seen;
    image_seen |= modality == 1;
    const int64_t row = next_row[modality]++;
    const int64_t place = sample * layout.max_seqlen + position;
    is_padding_row[row] = is_padding_place[place] = false;
    require(arrays.sequence_to_sorted[token] == row && arrays.sorted_to_sequence[row] == token, "sorted order");
    require(arrays.position_ids[row] == position, "position_ids");
    require(arrays.text_block[row] == block, "text_block");
    require(arrays.padded_to_sorted[place] == row && arrays.sorted_to_padded[row] == place, "sample layout");
  }
  require(layout.num_text_blocks == num_blocks, "num_text_blocks");
  require(layout.image_before_text == image_before_text, "image_before_text");
  for (int64_t row = 0; row < layout.num_rows(); ++row) {
    if (!is_padding_row[row]) continue;
    require(arrays.sorted_to_sequence[row] == -1 && arrays.sorted_to_padded[row] == -1, "indices of padding");
    require(arrays.position_ids[row] == 0 && arrays.text_block[row] == 0, "values of padding");
  }
  for (int64_t place = 0; place < layout.num_places(); ++place) {
    if (is_padding_place[place]) require(arrays.padded_to_sorted[place] == -1, "places of padding");
  }
}

void check_runs(const Input& input, const mars::PlanLayout& layout, const mars::PlanArrays& arrays) {
  int64_t start = 0;
  for (size_t i = 0; i < layout.runs.size(); ++i) {
    const mars::Run& run = layout.runs[i];
    require(run.sequence_start == start && run.length > 0, "runs cover the sequence");
    require(i == 0 || run.modality != layout.runs[i - 1].modality, "runs are maximal");
    for (int64_t k = 0; k < run.length; ++k) {
      require(input.modality[start + k] == run.modality, "modality of a run");
      require(arrays.sequence_to_sorted[start + k] == run.sorted_start + k, "rows of a run");
    }
    start += run.length;
  }
  require(start == layout.num_tokens, "runs end with the sequence");
}

void check_plan(const Input& input, const mars::PlanLayout& layout, const int32_t* cu_seqlens) {
  const auto& offsets = input.cu_seqlens;
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) longest = std::max<int64_t>(longest, offsets[i + 1] - offsets[i]);
  const int64_t num_visual = std::count(input.modality.begin(), input.modality.end(), 1);
  const auto num_tokens = static_cast<int64_t>(input.modality.size());
  require(layout.num_tokens == num_tokens && layout.num_visual == num_visual, "counts");
  require(layout.num_text == num_tokens - num_visual, "num_text");
  require(layout.num_samples == static_cast<int64_t>(offsets.size()) - 1, "num_samples");
  require(layout.max_seqlen == longest, "max_seqlen");
  require(layout.padded_visual == padded(num_visual, input.row_multiple), "padded_visual");
  const int64_t padded_text =
      input.total_rows ? *input.total_rows - layout.padded_visual : padded(layout.num_text, input.row_multiple);
  require(layout.padded_text == padded_text, "padded_text");
  if (layout.num_rows() > 1000000) return;  // a huge row_multiple: valid, but not worth the memory

  const auto rows = static_cast<size_t>(layout.num_rows());
  auto position_ids = exact(std::vector<int64_t>(rows, -7)), text_block = exact(std::vector<int64_t>(rows, -7));
  auto sorted_to_sequence = exact(std::vector<int64_t>(rows, -7));
  auto sorted_to_padded = exact(std::vector<int64_t>(rows, -7));
  auto sequence_to_sorted = exact(std::vector<int64_t>(layout.num_tokens, -7));
  auto padded_to_sorted = exact(std::vector<int64_t>(layout.num_places(), -7));
  const mars::PlanArrays arrays{position_ids.get(),       text_block.get(),       sequence_to_sorted.get(),
                                sorted_to_sequence.get(), padded_to_sorted.get(), sorted_to_padded.get()};
  mars::fill_plan(layout, cu_seqlens, arrays);
  check_tokens(input, layout, arrays);
  check_runs(input, layout, arrays);
}

void test_plan() {
  Input input = draw_input();
  if (one_in(2)) damage(input);
  const auto modality = exact(input.modality);
  const auto cu_seqlens = exact(input.cu_seqlens);
  mars::PlanLayout layout;
  const bool refused = throws<std::invalid_argument>([&] {
    layout = mars::layout_plan(modality.get(), input.modality.size(), cu_seqlens.get(), input.cu_seqlens.size(),
                               input.row_multiple, input.total_rows);
  });
  require(refused != is_valid(input), "layout_plan refuses what is not valid");
  if (!refused) check_plan(input, layout, cu_seqlens.get());
}

void test_permute_rows() {
  const int64_t in_rows = draw(1, 40), out_rows = draw(1, 60), row_bytes = draw(0, 40);
  std::vector<int64_t> order(out_rows);
  for (int64_t i = 0; i < out_rows; ++i) {
    // Runs of rows and of padding, which are copied at once, and rows of their own.
    const bool goes_on = i > 0 && !one_in(4);
    order[i] = !goes_on ? draw(-1, in_rows - 1) : order[i - 1] < 0 ? -1 : std::min(order[i - 1] + 1, in_rows - 1);
  }
  if (one_in(3)) order[draw(0, out_rows - 1)] = one_in(2) ? in_rows + draw(0, 1) : draw_extreme();
  std::vector<std::byte> bytes(in_rows * row_bytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(engine());
  const std::vector<std::byte> untouched(out_rows * row_bytes, std::byte{0xA5});

  const auto in = exact(bytes);
  const auto index = exact(order);
  const auto out = exact(untouched);
  const int64_t begin = draw(0, out_rows), end = draw(begin, out_rows);
  const bool valid = std::all_of(order.begin() + begin, order.begin() + end,
                                 [&](int64_t row) { return row >= -1 && row < in_rows; });
  const bool refused = throws<std::out_of_range>(
      [&] { mars::permute_rows(in.get(), in_rows, index.get(), begin, end, row_bytes, out.get()); });
  require(refused != valid, "permute_rows refuses what is out of range");
  const std::vector<std::byte> zeros(row_bytes, std::byte{0});
  for (int64_t row = 0; row < out_rows; ++row) {
    const bool inside = row >= begin && row < end;
    if (inside && refused) continue;
    const std::byte* expected = !inside            ? untouched.data()
                                : order[row] == -1 ? zeros.data()
                                                   : bytes.data() + order[row] * row_bytes;
    require(row_bytes == 0 || std::memcmp(out.get() + row * row_bytes, expected, row_bytes) == 0, "rows");
  }
}

}  // namespace

int main(int argc, char** argv) {
  require(argc == 3, "usage: test_core SEED ROUNDS");
  engine.seed(std::stoull(argv[1]));
  const int64_t rounds = std::stoll(argv[2]);
  for (int64_t round = 0; round < rounds; ++round) {
    test_plan();
    test_permute_rows();
  }
  std::cout << "test_core: " << rounds << " rounds passed\n";
}
