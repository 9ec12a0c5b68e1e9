// Fuzzes csrc/packing.cpp, corpus.cpp and round_plan.cpp against what they promise. Meant for the address and
// undefined-behaviour sanitizers: every buffer has exactly its size. No torch, no framework.
//
//   test_round_plan SEED ROUNDS
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/packing.h"
#include "../../csrc/round_plan.h"

namespace {

std::mt19937_64 engine;

int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::cerr << "test_round_plan: wrong: " << what << '\n';
  std::exit(1);
}

// A copy on the heap without a spare byte, so that the sanitizer sees the first step beyond it.
template <typename T>
std::unique_ptr<T[]> exact(const std::vector<T>& values) {
  std::unique_ptr<T[]> copy(new T[values.size()]);
  std::copy(values.begin(), values.end(), copy.get());
  return copy;
}

void check_packing() {
  const int64_t budget = draw(1, 300), count = draw(0, 200), lookahead = draw(1, 70);
  std::vector<int32_t> rows(count);
  for (auto& length : rows) length = static_cast<int32_t>(draw(1, draw(1, budget)));
  std::vector<uint32_t> positions;
  for (int64_t i = 0; i < count; ++i) {
    if (draw(0, 4)) positions.push_back(static_cast<uint32_t>(i));
  }
  const auto kept = exact(rows);
  const mars::Packs packs = mars::pack(kept.get(), positions, budget, lookahead);
  require(packs.offsets.front() == 0 && packs.offsets.back() == static_cast<int64_t>(positions.size()), "offsets");
  std::vector<uint32_t> members = packs.members;
  std::sort(members.begin(), members.end());
  require(members == positions, "every sample is in one pack");
  for (size_t i = 0; i + 1 < packs.offsets.size(); ++i) {
    int64_t sum = 0;
    for (int64_t j = packs.offsets[i]; j < packs.offsets[i + 1]; ++j) sum += rows[packs.members[j]];
    require(sum > 0 && sum <= budget, "a pack is not empty and fits");
  }
}

void check_best_sum() {
  static mars::BestSum best_sum;  // reused, as by pack
  std::vector<int32_t> lengths(draw(0, 12));
  for (auto& length : lengths) length = static_cast<int32_t>(draw(1, 90));
  const int64_t limit = draw(0, 400);
  const auto kept = exact(lengths);
  const auto& chosen = best_sum.find(kept.get(), static_cast<int64_t>(lengths.size()), limit);
  int64_t sum = 0, best = 0;
  for (size_t i = 0; i < chosen.size(); ++i) {
    require(i == 0 || chosen[i] < chosen[i - 1], "indices descend");
    sum += lengths[chosen[i]];
  }
  for (uint32_t subset = 0; subset < (1u << lengths.size()); ++subset) {
    int64_t total = 0;
    for (size_t i = 0; i < lengths.size(); ++i) total += subset >> i & 1 ? lengths[i] : 0;
    if (total <= limit) best = std::max(best, total);
  }
  require(sum == best, "the best sum");
}

// A copy that begins at an odd address, as the arrays of a .idx do: its header has 34 bytes.
template <typename T>
class Shifted {
 public:
  explicit Shifted(const std::vector<T>& values) : bytes_(new char[values.size() * sizeof(T) + 1]) {
    std::memcpy(bytes_.get() + 1, values.data(), values.size() * sizeof(T));
  }
  mars::Array<T> view() const { return mars::Array<T>(bytes_.get() + 1); }

 private:
  std::unique_ptr<char[]> bytes_;
};

struct Index {
  std::vector<int64_t> boundaries{0};
  std::vector<int32_t> lengths;
  std::vector<int8_t> modes;

  void add(mars::Kind kind) {
    const auto sequence = [&](mars::Mode mode, int64_t length) {
      modes.push_back(mode);
      lengths.push_back(static_cast<int32_t>(length));
    };
    if (kind == mars::kKindInterleaved) {
      for (int64_t i = draw(1, 4); i > 0; --i) draw(0, 1) ? sequence(mars::kModePartText, draw(1, 9)) : sequence(mars::kModePartImage, 16);
    } else {
      for (int64_t i = kind == mars::kKindText ? 1 : draw(1, 3); i > 0; --i) sequence(mars::kModeText, draw(1, 9));
      if (kind == mars::kKindPair) sequence(mars::kModeLow, 4);
      if (kind != mars::kKindText) sequence(mars::kModeImage, 16);
    }
    boundaries.push_back(static_cast<int64_t>(lengths.size()));
  }
};

void check_plan() {
  Index index;
  for (int64_t i = draw(1, 40); i > 0; --i) index.add(static_cast<mars::Kind>(draw(0, 3)));
  const Shifted<int64_t> boundaries(index.boundaries);
  const Shifted<int32_t> lengths(index.lengths);
  const Shifted<int8_t> modes(index.modes);
  const auto num_documents = static_cast<int64_t>(index.boundaries.size()) - 1;
  const mars::Corpus corpus{boundaries.view(), lengths.view(), modes.view(), mars::Array<float>(nullptr), num_documents,
                            static_cast<int64_t>(index.lengths.size()), 16, 4};
  const mars::Scan found = mars::scan(corpus);
  require(found.problem.empty(), "a good corpus: " + found.problem);
  require(std::accumulate(found.documents.begin(), found.documents.end(), int64_t{0}) == num_documents, "documents");
  std::vector<mars::Stream> streams;
  int64_t total = 0;
  const std::vector<std::vector<mars::Task>> tasks{
      {mars::kTextOnly}, {mars::kT2i, mars::kI2t}, {mars::kT2i, mars::kI2t, mars::kSr}, {mars::kInterleaved}};
  const auto documents = mars::divide_documents(corpus, 0, num_documents);
  for (int64_t kind = 0; kind < mars::kNumKinds; ++kind) {
    require(static_cast<int64_t>(documents[kind].size()) == found.documents[kind], "documents by kind");
  }
  std::vector<std::unique_ptr<uint32_t[]>> kept;
  for (int64_t kind = 0; kind < mars::kNumKinds; ++kind) {
    if (documents[kind].empty()) continue;
    kept.push_back(exact(documents[kind]));
    std::vector<uint64_t> limits(tasks[kind].size());
    for (size_t i = 0; i < limits.size(); ++i) limits[i] = ~uint64_t{0} / limits.size() * (i + 1);
    limits.back() = ~uint64_t{0};
    const int64_t count = draw(0, 60);
    total += count;
    streams.push_back({0, static_cast<mars::Kind>(kind), kept.back().get(), 0, static_cast<int64_t>(documents[kind].size()),
                       draw(0, 1000), count, tasks[kind], limits});
  }
  const mars::RoundSettings settings{engine(), 0.3, draw(20, 80), draw(1, 65), draw(0, 1) == 1, draw(0, 1) == 1, true};
  const mars::RoundPlan plan = mars::plan_round({corpus}, streams, settings);
  require(static_cast<int64_t>(plan.samples.size()) + plan.num_too_long == total, "samples");
  require(plan.offsets.back() == static_cast<int64_t>(plan.samples.size()), "offsets of the plan");
  for (const mars::Sample& sample : plan.samples) require(sample.document < num_documents, "a document of the corpus");
}

// A corpus of which anything may be wrong: the scan must not step outside of it.
void check_damaged() {
  Index index;
  for (int64_t i = draw(1, 10); i > 0; --i) index.add(static_cast<mars::Kind>(draw(0, 3)));
  for (int64_t i = draw(1, 3); i > 0; --i) {
    switch (draw(0, 2)) {
      case 0: index.boundaries[draw(0, index.boundaries.size() - 1)] = draw(-3, 60); break;
      case 1: index.lengths[draw(0, index.lengths.size() - 1)] = static_cast<int32_t>(draw(-3, 60)); break;
      default: index.modes[draw(0, index.modes.size() - 1)] = static_cast<int8_t>(draw(-128, 127));
    }
  }
  const Shifted<int64_t> boundaries(index.boundaries);
  const Shifted<int32_t> lengths(index.lengths);
  const Shifted<int8_t> modes(index.modes);
  mars::scan({boundaries.view(), lengths.view(), modes.view(), mars::Array<float>(nullptr), static_cast<int64_t>(index.boundaries.size()) - 1,
              static_cast<int64_t>(index.lengths.size()), 16, 4});
}

}  // namespace

int main(int, char** arguments) {
  engine.seed(std::stoull(arguments[1]));
  const int64_t rounds = std::stoll(arguments[2]);
  for (int64_t round = 0; round < rounds; ++round) {
    check_packing();
    check_best_sum();
    check_plan();
    check_damaged();
  }
  std::cout << rounds << " rounds passed\n";
}
