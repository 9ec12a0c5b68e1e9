// Packing samples into micro-batches. The specification is `pack` of mars_megatron/data/packing.py.
#pragma once

#include <cstdint>
#include <vector>

namespace mars {

struct Packs {
  class Queue;
  std::vector<uint32_t> members;  // positions of samples, pack after pack
  std::vector<int64_t> offsets;   // where each pack begins in members, and their number
};

// Packs samples in order: rows[positions[i]] rows each, from 1 to budget.
Packs pack(const int32_t* rows, const std::vector<uint32_t>& positions, int64_t budget, int64_t lookahead);

// Finds the positive lengths whose sum is the largest within a limit; reused, so that nothing is allocated per pack.
class BestSum {
 public:
  // Indices into lengths [count <= 65535], descending. Of equal sums the one that was found with the earliest lengths.
  const std::vector<uint16_t>& find(const int32_t* lengths, int64_t count, int64_t limit);

 private:
  std::vector<uint64_t> reachable_;  // a bit for each sum from 0 to limit
  std::vector<uint16_t> last_;                 // the length that made a sum reachable first
  std::vector<uint16_t> chosen_;
};

}  // namespace mars
