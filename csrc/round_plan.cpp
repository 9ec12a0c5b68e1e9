#include "round_plan.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <numeric>
#include <queue>
#include <stdexcept>
#include <string>

#include "hashing.h"
#include "packing.h"

namespace mars {
namespace {

// Documents lie anywhere in memory, and waiting for one after the other would take most of the time: those of a block are
// asked for at once.
constexpr int64_t kBlock = 64;

Permutation split_of(const Corpus& corpus) {
  return Permutation(make_key({kSplit, 0, 0, 0}), static_cast<uint64_t>(corpus.num_documents));
}

// Walks a stream: the samples start, start + 1, ... of its endless sequence of epochs.
class StreamWalk {
 public:
  StreamWalk(const Corpus& corpus, const Stream& stream, const RoundSettings& settings)
      : corpus_(corpus), stream_(stream), settings_(settings), position_(stream.start), split_(split_of(corpus)) {}

  // The next sample; `rows` become those that it has.
  Sample next(int64_t& rows) {
    if (number_ == block_size_) begin_block();
    const int64_t document = block_[number_++];
    const auto rank = static_cast<uint64_t>(position_++ % stream_.num_documents);
    // Multiples of the golden ratio spread evenly: every stretch of samples has the tasks in their shares.
    const uint64_t point = task_offset_ + rank * kGamma;
    size_t number = 0;
    while (point > stream_.limits[number]) ++number;
    const Task task = stream_.tasks[number];
    const int64_t caption = task == kInterleaved ? 0 : choose_caption(document);
    const bool may_drop = task == kT2i || task == kSr;
    const bool dropped = may_drop && uniform(dropout_key_, document) < settings_.dropout;
    const int64_t text = dropped || task == kInterleaved ? 0 : corpus_.lengths[corpus_.begin(document) + caption];
    rows = sample_rows(corpus_, document, task, text);
    return {static_cast<uint32_t>(document), static_cast<uint16_t>(caption), static_cast<uint8_t>(stream_.corpus),
            static_cast<uint8_t>(task | (dropped ? kDropped : 0))};
  }

 private:
  // A block lies within one epoch.
  void begin_block() {
    const int64_t epoch = position_ / stream_.num_documents, rank = position_ % stream_.num_documents;
    if (epoch != epoch_) begin_epoch(epoch);
    number_ = 0;
    block_size_ = std::min<int64_t>(kBlock, stream_.num_documents - rank);
    for (int64_t i = 0; i < block_size_; ++i) {
      const uint64_t place = (*order_)(static_cast<uint64_t>(rank + i));
      block_[i] = static_cast<int64_t>(stream_.documents ? place : split_(stream_.first_slot + place));
      if (stream_.documents) __builtin_prefetch(stream_.documents + place);
    }
    for (int64_t i = 0; i < block_size_; ++i) {
      if (stream_.documents) block_[i] = stream_.documents[block_[i]];
      corpus_.boundaries.prefetch(block_[i]);
    }
    for (int64_t i = 0; i < block_size_; ++i) {
      const int64_t first = corpus_.begin(block_[i]);
      corpus_.lengths.prefetch(first);
      if (corpus_.weights) corpus_.weights.prefetch(first);
      if (stream_.kind == kKindInterleaved) corpus_.modes.prefetch(first);
    }
  }

  void begin_epoch(int64_t epoch) {
    const auto key = [&](Purpose purpose) {
      return make_key({purpose, settings_.seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(stream_.corpus)});
    };
    epoch_ = epoch;
    order_ = std::make_unique<Permutation>(key(kOrder), static_cast<uint64_t>(stream_.num_documents));
    task_offset_ = draw(key(kTask), 0);
    caption_key_ = key(kCaption);
    dropout_key_ = key(kDropout);
  }

  int64_t choose_caption(int64_t document) const {
    const int64_t number = num_captions(corpus_, document, stream_.kind);
    if (number == 1) return 0;
    const double point = uniform(caption_key_, document);
    if (!corpus_.weights) return static_cast<int64_t>(point * static_cast<double>(number));
    const int64_t first = corpus_.begin(document);
    double total = 0, sum = 0;
    for (int64_t i = 0; i < number; ++i) total += corpus_.weights[first + i];
    for (int64_t i = 0; i < number; ++i) {
      sum += corpus_.weights[first + i];
      if (point * total < sum) return i;
    }
    return number - 1;  // should rounding leave the point at the very end
  }

  const Corpus& corpus_;
  const Stream& stream_;
  const RoundSettings& settings_;
  int64_t position_, epoch_ = -1;
  std::array<int64_t, kBlock> block_;  // documents
  int64_t number_ = 0, block_size_ = 0;
  Permutation split_;
  std::unique_ptr<Permutation> order_;
  uint64_t task_offset_ = 0, caption_key_ = 0, dropout_key_ = 0;
};

// The next item of a group: item i of n has its place at (2i + 1) / 2n of the whole.
struct Place {
  size_t group;
  int64_t i, n;
  // Whether the other one comes first, exactly; ties go to the first group. For a heap whose top is the first place.
  bool operator<(const Place& other) const {
    const auto ours = static_cast<__int128>(2 * i + 1) * other.n, theirs = static_cast<__int128>(2 * other.i + 1) * n;
    return ours != theirs ? ours > theirs : group > other.group;
  }
};

// Calls visit(group) so often as the group has items, spread evenly over the whole.
template <typename Visit>
void spread(const std::vector<int64_t>& counts, Visit visit) {
  std::priority_queue<Place> places;
  for (size_t group = 0; group < counts.size(); ++group) {
    if (counts[group] > 0) places.push({group, 0, counts[group]});
  }
  while (!places.empty()) {
    Place place = places.top();
    places.pop();
    visit(place.group);
    if (++place.i < place.n) places.push(place);
  }
}

// The same one group after the other in turn, as long as they have items.
template <typename Visit>
void take_turns(std::vector<int64_t> counts, Visit visit) {
  for (bool any = true; any;) {
    any = false;
    for (size_t group = 0; group < counts.size(); ++group) {
      if (counts[group] == 0) continue;
      --counts[group];
      any = true;
      visit(group);
    }
  }
}

struct Drawn {
  std::vector<Sample> samples;
  std::vector<int32_t> rows;
  int64_t num_too_long = 0;
};

Drawn draw_samples(const std::vector<Corpus>& corpora, const std::vector<Stream>& streams,
                   const RoundSettings& settings) {
  std::vector<StreamWalk> walks;
  std::vector<int64_t> counts;
  for (const Stream& stream : streams) {
    walks.emplace_back(corpora[stream.corpus], stream, settings);
    counts.push_back(stream.count);
  }
  Drawn drawn;
  const auto total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  if (total > std::numeric_limits<uint32_t>::max()) throw std::invalid_argument("a round has too many samples");
  drawn.samples.reserve(total);
  drawn.rows.reserve(total);
  spread(counts, [&](size_t stream) {
    int64_t rows = 0;
    const Sample sample = walks[stream].next(rows);
    if (rows > settings.budget) {
      if (!settings.skip_too_long) {
        throw std::invalid_argument("a sample of document " + std::to_string(sample.document) + " has " +
                                    std::to_string(rows) + " rows, a pack " + std::to_string(settings.budget));
      }
      ++drawn.num_too_long;
      return;
    }
    drawn.samples.push_back(sample);
    drawn.rows.push_back(static_cast<int32_t>(rows));
  });
  return drawn;
}

std::vector<std::vector<uint32_t>> group_by_task(const Drawn& drawn, bool by_task) {
  const auto group_of = [&](const Sample& sample) { return by_task ? sample.task & ~kDropped : 0; };
  std::array<size_t, kNumTasks> sizes{};
  for (const Sample& sample : drawn.samples) ++sizes[group_of(sample)];
  std::vector<std::vector<uint32_t>> groups(by_task ? size_t{kNumTasks} : 1);
  for (size_t group = 0; group < groups.size(); ++group) groups[group].reserve(sizes[group]);
  for (size_t i = 0; i < drawn.samples.size(); ++i) {
    groups[group_of(drawn.samples[i])].push_back(static_cast<uint32_t>(i));
  }
  return groups;
}

}  // namespace

RoundPlan plan_round(const std::vector<Corpus>& corpora, const std::vector<Stream>& streams,
                     const RoundSettings& settings) {
  Drawn drawn = draw_samples(corpora, streams, settings);
  std::vector<Packs> groups;
  std::vector<int64_t> counts;
  for (auto& positions : group_by_task(drawn, settings.pack_by_task)) {
    groups.push_back(pack(drawn.rows.data(), positions, settings.budget, settings.lookahead));
    counts.push_back(static_cast<int64_t>(groups.back().offsets.size()) - 1);
    positions = {};  // rounds are large: what is no longer needed goes at once
  }
  drawn.rows = {};
  RoundPlan plan;
  plan.num_too_long = drawn.num_too_long;
  plan.samples.reserve(drawn.samples.size());
  plan.offsets.reserve(std::accumulate(counts.begin(), counts.end(), int64_t{1}));
  plan.offsets.push_back(0);
  std::vector<int64_t> done(groups.size(), 0);
  const auto append = [&](size_t group) {
    const Packs& packs = groups[group];
    const int64_t number = done[group]++;
    for (int64_t i = packs.offsets[number]; i < packs.offsets[number + 1]; ++i) {
      plan.samples.push_back(drawn.samples[packs.members[i]]);
    }
    plan.offsets.push_back(static_cast<int64_t>(plan.samples.size()));
  };
  if (settings.tasks_in_turn) {
    take_turns(counts, append);
  } else {
    spread(counts, append);
  }
  return plan;
}

std::array<std::vector<uint32_t>, kNumKinds> divide_documents(const Corpus& corpus, int64_t first_slot, int64_t end_slot) {
  const Permutation split = split_of(corpus);
  std::array<std::vector<uint32_t>, kNumKinds> divided;
  std::array<int64_t, kBlock> block;
  for (int64_t slot = first_slot; slot < end_slot; slot += kBlock) {
    const int64_t size = std::min(kBlock, end_slot - slot);
    for (int64_t i = 0; i < size; ++i) {
      block[i] = static_cast<int64_t>(split(slot + i));
      corpus.boundaries.prefetch(block[i]);
    }
    for (int64_t i = 0; i < size; ++i) corpus.modes.prefetch(corpus.end(block[i]) - 1);
    for (int64_t i = 0; i < size; ++i) {
      divided[kind_of(corpus, block[i])].push_back(static_cast<uint32_t>(block[i]));
    }
  }
  return divided;
}

}  // namespace mars
