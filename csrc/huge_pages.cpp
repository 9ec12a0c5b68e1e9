#include "huge_pages.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#ifdef __linux__
#include <malloc.h>
#include <sys/mman.h>
#endif

namespace mars {
namespace {

#ifdef __linux__

constexpr size_t kHugePage = size_t{2} << 20;
// The part beyond the last whole huge page comes in small ones: below this it would be much of the tensor.
constexpr size_t kFewestBytes = 2 * kHugePage;
constexpr size_t kMostKept = size_t{512} << 20;

// Memory given back, oldest first. It is passed over where another thread is at it, rather than waited for: so it
// cannot block a process that was forked meanwhile.
class KeptBlocks {
 public:
  // The smallest block of at least so many bytes, but not so large that much of it would lie idle; or null.
  // An aligned block may have up to a huge page more than was asked for, which was never touched.
  void* take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return nullptr;
    auto best = blocks_.end();
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      const bool fits = block->bytes >= bytes && block->bytes <= bytes + bytes / 8 + kHugePage;
      if (fits && (best == blocks_.end() || block->bytes < best->bytes)) best = block;
    }
    return best == blocks_.end() ? nullptr : remove(best);
  }

  // Keeps what posix_memalign returned, or frees it; at the cost of older blocks.
  void give(void* data) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    const size_t bytes = malloc_usable_size(data);
    if (!lock.owns_lock() || bytes > kMostKept) return std::free(data);
    blocks_.push_back({data, bytes});
    bytes_ += bytes;
    while (bytes_ > kMostKept) std::free(remove(blocks_.begin()));
  }

 private:
  struct Block {
    void* data;
    size_t bytes;
  };

  void* remove(std::vector<Block>::iterator block) {
    void* data = block->data;
    bytes_ -= block->bytes;
    blocks_.erase(block);
    return data;
  }

  std::mutex mutex_;
  std::vector<Block> blocks_;
  size_t bytes_ = 0;
};

// Never destroyed: tensors may outlive the static objects of this file.
KeptBlocks& kept = *new KeptBlocks;

class HugePageAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kFewestBytes) return c10::GetCPUAllocator()->allocate(bytes);  // after a resize
    void* data = kept.take(bytes);
    if (data == nullptr) {
      TORCH_CHECK(posix_memalign(&data, kHugePage, bytes) == 0, "not enough memory for ", bytes, " bytes");
      // Only advice: where there are no huge pages, this is plain memory.
      madvise(data, bytes, MADV_HUGEPAGE);
    }
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, &release, at::Device(at::kCPU)};
  }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    std::memcpy(target, source, bytes);
  }

 private:
  static void release(void* data) {
    c10::profiledCPUMemoryReporter().Delete(data);
    kept.give(data);
  }
};

HugePageAllocator& allocator = *new HugePageAllocator;

#endif

}  // namespace

at::Tensor empty_rows(at::IntArrayRef shape, at::ScalarType dtype) {
#ifdef __linux__
  const auto bytes = static_cast<size_t>(c10::multiply_integers(shape)) * c10::elementSize(dtype);
  if (bytes >= kFewestBytes) {
    return at::detail::empty_generic(shape, &allocator, c10::DispatchKeySet(c10::DispatchKey::CPU), dtype,
                                     std::nullopt);
  }
#endif
  return at::empty(shape, at::TensorOptions(at::kCPU).dtype(dtype));
}

}  // namespace mars
