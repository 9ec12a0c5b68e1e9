// An index as arrays: which documents it has, and how long their samples are. Format: mars_megatron/index/FORMAT.md;
// specification: `scan` and `sample_rows` of mars_megatron/data/planning_reference.py.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

namespace mars {

// index/modes.py
enum Mode : int8_t { kModeText, kModeImage, kModeLow, kModePartText, kModePartImage };
enum Kind : int64_t { kKindText, kKindImage, kKindPair, kKindInterleaved, kNumKinds };
// sequence/samples.py
enum Task : int64_t { kT2i, kI2t, kSr, kTextOnly, kInterleaved, kNumTasks };

// An array that somebody else keeps. Those of a .idx begin anywhere: its header has 34 bytes.
template <typename T>
class Array {
 public:
  explicit Array(const void* data) : data_(static_cast<const char*>(data)) {}
  explicit operator bool() const { return data_ != nullptr; }
  T operator[](int64_t i) const {
    T value;
    std::memcpy(&value, data_ + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
  }
  void prefetch(int64_t i) const { __builtin_prefetch(data_ + i * static_cast<int64_t>(sizeof(T))); }

 private:
  const char* data_;
};

struct Corpus {
  Array<int64_t> boundaries;  // [num_documents + 1]
  Array<int32_t> lengths;     // [num_sequences]
  Array<int8_t> modes;        // [num_sequences]
  Array<float> weights;       // [num_sequences] of captions, or none for equal ones
  int64_t num_documents;
  int64_t num_sequences;
  int64_t num_codes;
  int64_t num_low_codes;

  int64_t begin(int64_t document) const { return boundaries[document]; }
  int64_t end(int64_t document) const { return boundaries[document + 1]; }
};

struct Scan {
  std::array<int64_t, kNumKinds> documents{};         // by kind
  std::array<int64_t, kNumKinds> longest{};           // tokens of the longest text, or caption; of interleaved: rows
  std::array<int64_t, kNumKinds> longest_document{};  // that has it
  std::string problem;                                // what is wrong with which document; empty if nothing
};

// Reads the whole of boundaries, lengths and modes once, trusting nothing.
Scan scan(const Corpus& corpus);

// The kind of a document of a corpus that `scan` found no problem in.
Kind kind_of(const Corpus& corpus, int64_t document);

// Captions of a document that is not interleaved; 1 for a text document.
int64_t num_captions(const Corpus& corpus, int64_t document, Kind kind);

// Input rows of a sample; `text` tokens of its caption or text, which interleaved documents do not look at.
int64_t sample_rows(const Corpus& corpus, int64_t document, Task task, int64_t text);

}  // namespace mars
