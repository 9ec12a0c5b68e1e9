// One round of training samples: which samples, in which order, packed into which micro-batches. Plain C++.
//
// The specification is mars_megatron/data/planning_reference.py; what a round and a stream are is in data/blend.py.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "corpus.h"

namespace mars {

// A sample as the loader reads it; numpy's type is SAMPLE of mars_megatron/data/rounds.py.
struct Sample {
  uint32_t document;
  uint16_t caption;  // number of the caption within the document
  uint8_t corpus;
  uint8_t task;  // bit 7: the caption is dropped
};
static_assert(sizeof(Sample) == 8, "the layout is shared with numpy");
constexpr uint8_t kDropped = 0x80;

// The documents of one kind of a corpus, gone through again and again, in another order each time.
struct Stream {
  int64_t corpus;
  Kind kind;
  const uint32_t* documents;  // [num_documents], or null: slots of the corpus' split (hashing.py) from first_slot on
  int64_t first_slot;
  int64_t num_documents;
  int64_t start;  // samples taken from it in earlier rounds
  int64_t count;  // samples of this round
  // The tasks and the upper limits of their shares of 2^64 (inclusive), ascending.
  std::vector<Task> tasks;
  std::vector<uint64_t> limits;
};

struct RoundSettings {
  uint64_t seed;
  double dropout;       // probability of dropping the caption of an image that is drawn (t2i, sr)
  int64_t budget;       // rows of a pack
  int64_t lookahead;    // samples that may wait for a pack
  bool pack_by_task;
  bool tasks_in_turn;   // packs of the tasks one by one in turn, instead of spread over the round
  bool skip_too_long;   // leave out samples longer than the budget, instead of throwing
};

struct RoundPlan {
  std::vector<Sample> samples;   // pack after pack
  std::vector<int64_t> offsets;  // [packs + 1]
  int64_t num_too_long = 0;      // left out
};

// Throws std::invalid_argument where a sample is longer than the budget, or there are more than 32 bits count.
RoundPlan plan_round(const std::vector<Corpus>& corpora, const std::vector<Stream>& streams, const RoundSettings& settings);

// Of each kind its documents among the slots of a corpus' split from first_slot to end_slot, in the order of the slots.
std::array<std::vector<uint32_t>, kNumKinds> divide_documents(const Corpus& corpus, int64_t first_slot, int64_t end_slot);

}  // namespace mars
