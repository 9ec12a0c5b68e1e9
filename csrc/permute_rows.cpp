#include "permute_rows.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace mars {

void permute_rows(const std::byte* in, int64_t in_rows, const int64_t* index, int64_t begin, int64_t end,
                  size_t row_bytes, std::byte* out) {
  while (begin < end) {
    const int64_t first = index[begin];
    if (first < -1 || first >= in_rows) {
      throw std::out_of_range("index " + std::to_string(first) + " at " + std::to_string(begin) +
                              " is out of range for " + std::to_string(in_rows) + " rows");
    }
    const int64_t step = first == -1 ? 0 : 1;
    // A run never leaves the input: at in_rows it stops, and the next round raises.
    int64_t length = 1;
    while (begin + length < end && index[begin + length] == first + length * step &&
           first + length * step < in_rows) {
      ++length;
    }
    const size_t bytes = static_cast<size_t>(length) * row_bytes;
    std::byte* target = out + static_cast<size_t>(begin) * row_bytes;
    if (bytes > 0) {
      if (first == -1) {
        std::memset(target, 0, bytes);
      } else {
        std::memcpy(target, in + static_cast<size_t>(first) * row_bytes, bytes);
      }
    }
    begin += length;
  }
}

}  // namespace mars
