// Uninitialised CPU tensors for outputs that are written once and soon given back.
//
// A large output is mostly fresh memory: the system maps and clears every page at its first write, which in pages of
// 4 KiB takes several times as long as the copy of the rows. It is this, not the copy, that makes dispatch faster than
// index_select or a clone: our memory comes in pages of 2 MiB, and of what was given back, the last part is kept for
// the next output, mapped as it is. Where malloc happens to reuse memory (outputs below 32 MiB, a quiet heap), all
// are alike. Nothing else about such a tensor is special.
#pragma once

#include <ATen/core/Tensor.h>

namespace mars {

// at::empty on the CPU, contiguous. Tensors of at least 4 MiB are served as above where the system has huge pages
// (Linux, transparent huge pages "madvise" or "always"); at most 512 MiB are kept, and
// none across a fork.
at::Tensor empty_rows(at::IntArrayRef shape, at::ScalarType dtype);

// Returns what is kept to the system.
void release_kept_memory();

}  // namespace mars
