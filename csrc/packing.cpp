#include "packing.h"

#include <algorithm>
#include <numeric>

namespace mars {
namespace {

// Whole samples are taken in order while more room than this many of the longest is left; the rest is chosen.
constexpr int64_t kChosenSamples = 4;

}  // namespace

const std::vector<uint16_t>& BestSum::find(const int32_t* lengths, int64_t count, int64_t limit) {
  const int64_t num_words = limit / 64 + 1;
  reachable_.assign(num_words, 0);
  if (static_cast<int64_t>(last_.size()) <= limit) last_.resize(limit + 1);
  reachable_[0] = 1;
  const uint64_t valid = (uint64_t{2} << (limit % 64)) - 1;  // bits of the last word that are sums up to limit
  const auto reached = [&](int64_t sum) { return reachable_[sum / 64] >> (sum % 64) & 1; };
  for (int64_t i = 0; i < count && !reached(limit); ++i) {
    if (lengths[i] > limit) continue;
    const int64_t words = lengths[i] / 64, bits = lengths[i] % 64;
    // Sums that this length reaches and none before it did, from the top so that it is counted once.
    for (int64_t word = num_words - 1; word >= words; --word) {
      uint64_t moved = reachable_[word - words] << bits;
      if (bits && word > words) moved |= reachable_[word - words - 1] >> (64 - bits);
      if (word == num_words - 1) moved &= valid;
      uint64_t fresh = moved & ~reachable_[word];
      reachable_[word] |= fresh;
      for (; fresh; fresh &= fresh - 1) last_[word * 64 + __builtin_ctzll(fresh)] = static_cast<uint16_t>(i);
    }
  }
  int64_t best = limit;
  while (!reached(best)) --best;
  chosen_.clear();
  for (; best > 0; best -= lengths[chosen_.back()]) chosen_.push_back(last_[best]);
  return chosen_;
}

// The samples that wait for a pack, in order.
class Packs::Queue {
 public:
  Queue(const int32_t* rows, const std::vector<uint32_t>& positions) : rows_(rows), positions_(positions) {}

  // Lets samples come in until `count` wait, or none is left.
  void refill(int64_t count) {
    while (size() < count && next_ < positions_.size()) waiting_.push_back(positions_[next_++]);
  }
  int64_t size() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t length(int64_t number) const { return rows_[waiting_[number]]; }
  const std::vector<int32_t>& lengths() {
    lengths_.clear();
    for (const uint32_t position : waiting_) lengths_.push_back(rows_[position]);
    return lengths_;
  }
  // Moves the first `count` to the pack.
  void take(int64_t count, Packs& packs) {
    packs.members.insert(packs.members.end(), waiting_.begin(), waiting_.begin() + count);
    waiting_.erase(waiting_.begin(), waiting_.begin() + count);
  }
  // Moves those with the given descending numbers.
  void take(const std::vector<uint16_t>& numbers, Packs& packs) {
    for (auto i = numbers.rbegin(); i != numbers.rend(); ++i) packs.members.push_back(waiting_[*i]);
    for (const uint16_t i : numbers) waiting_.erase(waiting_.begin() + i);
  }

 private:
  const int32_t* rows_;
  const std::vector<uint32_t>& positions_;
  std::vector<uint32_t> waiting_;
  std::vector<int32_t> lengths_;
  size_t next_ = 0;
};

Packs pack(const int32_t* rows, const std::vector<uint32_t>& positions, int64_t budget, int64_t lookahead) {
  Packs packs;
  packs.members.reserve(positions.size());
  packs.offsets.push_back(0);
  int64_t longest = 0;
  for (const uint32_t position : positions) longest = std::max<int64_t>(longest, rows[position]);
  Packs::Queue queue(rows, positions);
  BestSum best_sum;
  for (queue.refill(1); queue.size() > 0; queue.refill(1)) {
    // The oldest always goes, so that none waits for ever.
    int64_t room = budget - queue.length(0), taken = 1;
    for (queue.refill(2); taken < queue.size() && room - queue.length(taken) >= kChosenSamples * longest;
         queue.refill(taken + 1)) {
      room -= queue.length(taken++);
    }
    queue.take(taken, packs);
    for (queue.refill(lookahead); queue.size() > 0; queue.refill(lookahead)) {
      const std::vector<int32_t>& lengths = queue.lengths();
      const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
      if (total > room) {
        queue.take(best_sum.find(lengths.data(), queue.size(), room), packs);
        break;
      }
      room -= total;
      queue.take(queue.size(), packs);
    }
    packs.offsets.push_back(static_cast<int64_t>(packs.members.size()));
  }
  return packs;
}

}  // namespace mars
