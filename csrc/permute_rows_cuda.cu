#include <algorithm>

#include "permute_rows_cuda.h"

namespace mars {
namespace {

constexpr int kThreads = 256;
// More blocks than any GPU holds at once; they stride over the rest.
constexpr int64_t kMaxBlocks = int64_t{1} << 20;

// A block is blockDim.y rows at a time, each copied by the blockDim.x threads of one row of threads, so that
// neighbouring threads read and write neighbouring words.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    permute_rows_kernel(const Word* __restrict__ in, int64_t in_rows, const int64_t* __restrict__ index,
                        int64_t out_rows, int64_t row_words, Word* __restrict__ out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < out_rows; row += stride) {
    const int64_t from = index[row];
    if (from < -1 || from >= in_rows) __trap();
    Word* target = out + row * row_words;
    if (from == -1) {
      for (int64_t word = threadIdx.x; word < row_words; word += blockDim.x) target[word] = Word{};
    } else {
      const Word* source = in + from * row_words;
      // Unrolled, the loads of several words are under way at the same time.
#pragma unroll 4
      for (int64_t word = threadIdx.x; word < row_words; word += blockDim.x) target[word] = source[word];
    }
  }
}

template <typename Word>
cudaError_t launch(const void* in, int64_t in_rows, const int64_t* index, int64_t out_rows, size_t row_bytes,
                   void* out, cudaStream_t stream) {
  const auto row_words = static_cast<int64_t>(row_bytes / sizeof(Word));
  // Four words for each thread, but where a warp's worth is there, no row has less than a warp.
  const int64_t wanted = std::max(std::min<int64_t>(row_words, 32), row_words / 4);
  dim3 threads(1);
  while (threads.x < kThreads && threads.x < wanted) threads.x *= 2;
  threads.y = kThreads / threads.x;
  const int64_t blocks = (out_rows + threads.y - 1) / threads.y;
  permute_rows_kernel<<<static_cast<unsigned>(std::min(blocks, kMaxBlocks)), threads, 0, stream>>>(
      static_cast<const Word*>(in), in_rows, index, out_rows, row_words, static_cast<Word*>(out));
  return cudaGetLastError();
}

}  // namespace

cudaError_t permute_rows_cuda(const void* in, int64_t in_rows, const int64_t* index, int64_t out_rows,
                              size_t row_bytes, void* out, cudaStream_t stream) {
  if (out_rows == 0 || row_bytes == 0) return cudaSuccess;
  // The widest word that every row can start at.
  const size_t bits = reinterpret_cast<size_t>(in) | reinterpret_cast<size_t>(out) | row_bytes;
  const auto gather = bits % 16 == 0  ? launch<uint4>
                      : bits % 8 == 0 ? launch<uint64_t>
                      : bits % 4 == 0 ? launch<uint32_t>
                      : bits % 2 == 0 ? launch<uint16_t>
                                      : launch<uint8_t>;
  return gather(in, in_rows, index, out_rows, row_bytes, out, stream);
}

}  // namespace mars
