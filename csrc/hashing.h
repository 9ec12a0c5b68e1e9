// Seeded draws and permutations as pure functions of their arguments: a sample's fate depends on no worker, rank or
// order of calls. The specification is mars_megatron/data/hashing.py.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace mars {

// What a draw decides; each purpose is an independent stream.
enum Purpose : uint64_t { kOrder, kTask, kCaption, kDropout, kSplit };

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio, odd

// The finaliser of splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

inline uint64_t make_key(std::initializer_list<uint64_t> parts) {
  uint64_t key = 0;
  for (const uint64_t part : parts) key = mix(key + kGamma + part);
  return key;
}

inline uint64_t draw(uint64_t key, uint64_t number) { return mix(mix(key + kGamma * (number + 1))); }

inline double uniform(uint64_t key, uint64_t number) { return static_cast<double>(draw(key, number) >> 11) * 0x1p-53; }

// A permutation of 0 .. size - 1 that needs no memory: a Feistel network over the next power of two, walked until it
// lands inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
class Permutation {
 public:
  Permutation(uint64_t key, uint64_t size) : size_(size) {
    int bits = 8;  // smaller networks are not uniform
    while (bits < 63 && (uint64_t{1} << bits) < size) ++bits;
    low_bits_ = bits / 2;
    low_mask_ = (uint64_t{1} << low_bits_) - 1;
    high_mask_ = (uint64_t{1} << (bits - low_bits_)) - 1;
    for (int round = 0; round < kRounds; ++round) keys_[round] = draw(key, round);
  }

  uint64_t operator()(uint64_t number) const {
    do {
      number = scramble(number);
    } while (number >= size_);
    return number;
  }

 private:
  static constexpr int kRounds = 6;

  uint64_t scramble(uint64_t number) const {
    uint64_t high = number >> low_bits_, low = number & low_mask_;
    for (int round = 0; round < kRounds; round += 2) {
      high ^= mix(keys_[round] + low) & high_mask_;
      low ^= mix(keys_[round + 1] + high) & low_mask_;
    }
    return (high << low_bits_) | low;
  }

  uint64_t size_, low_mask_, high_mask_, keys_[kRounds];
  int low_bits_;
};

}  // namespace mars
