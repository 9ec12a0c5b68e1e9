// Row gather on a GPU: out[i] = in[index[i]], zeros where index[i] is -1. Plain CUDA (permute_rows_cuda.cu): no torch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace mars {

// Enqueues the copy on `stream` of the current device and returns what the launch returned; nothing waits for it.
// All pointers are to memory of that device. An index outside [-1, in_rows) traps: nothing is read out of bounds,
// and the next call that looks at the stream's errors fails.
cudaError_t permute_rows_cuda(const void* in, int64_t in_rows, const int64_t* index, int64_t out_rows,
                              size_t row_bytes, void* out, cudaStream_t stream);

}  // namespace mars
