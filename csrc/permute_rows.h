// Row gather: out[i] = in[index[i]], zeros where index[i] is -1. Plain C++: no torch, no Python, no threads.
//
// The specification is permute_rows in mars_megatron/sequence/reference.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mars {

// Writes rows [begin, end) of `out`; disjoint ranges may be written by different threads at the same time.
// Consecutive indices are copied at once. Throws std::out_of_range for an index outside [-1, in_rows).
void permute_rows(const std::byte* in, int64_t in_rows, const int64_t* index, int64_t begin, int64_t end,
                  size_t row_bytes, std::byte* out);

}  // namespace mars
