#include "huge_pages.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace mars {
namespace {

#ifdef __linux__

constexpr size_t kHugePage = size_t{2} << 20;
// Blocks are whole huge pages: below this, rounding up would be much of the tensor.
constexpr size_t kFewestBytes = 2 * kHugePage;
constexpr size_t kMostKept = size_t{512} << 20;

// Whole huge pages straight from the system: those of malloc may lie in its heap, which shrinks from its end only.
struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};

// Null where there is no memory.
Block map_block(size_t bytes) {
  // A huge page more, so that the block can start at one; the ends go back.
  void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return {};
  auto* data = static_cast<std::byte*>(mapped);
  const size_t before = -reinterpret_cast<uintptr_t>(data) % kHugePage;
  if (before > 0) munmap(data, before);
  data += before;
  munmap(data + bytes, kHugePage - before);
  // Only advice: where there are no huge pages, this is plain memory.
  madvise(data, bytes, MADV_HUGEPAGE);
  return {data, bytes};
}

void unmap(const Block& block) { munmap(block.data, block.bytes); }

// Memory given back, oldest first. It is passed over where another thread is at it, rather than waited for: so it
// cannot block a process that was forked meanwhile.
class KeptBlocks {
 public:
  KeptBlocks() { blocks_.reserve(kMostKept / kFewestBytes + 1); }

  // The smallest block of at least so many bytes, the youngest of equal ones, but not so large that much of it would
  // lie idle; or null.
  Block take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return {};
    auto best = blocks_.end();
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      const bool fits = block->bytes >= bytes && block->bytes <= bytes + bytes / 8;
      if (fits && (best == blocks_.end() || block->bytes <= best->bytes)) best = block;
    }
    return best == blocks_.end() ? Block{} : remove(best);
  }

  // Keeps the block at the cost of older ones, or returns it to the system.
  void give(const Block& block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || block.bytes > kMostKept) return unmap(block);
    blocks_.push_back(block);
    bytes_ += block.bytes;
    while (bytes_ > kMostKept) unmap(remove(blocks_.begin()));
  }

  void drop_all() {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return;
    while (!blocks_.empty()) unmap(remove(blocks_.end() - 1));
  }

 private:
  Block remove(std::vector<Block>::iterator place) {
    const Block block = *place;
    bytes_ -= block.bytes;
    blocks_.erase(place);
    return block;
  }

  std::mutex mutex_;
  std::vector<Block> blocks_;
  size_t bytes_ = 0;
};

// Never destroyed: tensors may outlive the static objects of this file.
KeptBlocks& kept = *new KeptBlocks;

// The child would hold on to what is kept here, and each of the two would copy it at the first write.
[[maybe_unused]] const int at_fork = pthread_atfork([] { kept.drop_all(); }, nullptr, nullptr);

Block allocate_block(size_t bytes) {
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  Block block = kept.take(bytes);
  if (block.data == nullptr) block = map_block(bytes);
  if (block.data == nullptr) {
    kept.drop_all();
    block = map_block(bytes);
  }
  return block;
}

class HugePageAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kFewestBytes) return c10::GetCPUAllocator()->allocate(bytes);  // after a resize
    auto block = std::make_unique<Block>(allocate_block(bytes));
    TORCH_CHECK(block->data != nullptr, "not enough memory for ", bytes, " bytes");
    void* data = block->data;
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, block.release(), &release, at::Device(at::kCPU)};
  }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    std::memcpy(target, source, bytes);
  }

 private:
  static void release(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    c10::profiledCPUMemoryReporter().Delete(block->data);
    kept.give(*block);
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

void release_kept_memory() {
#ifdef __linux__
  kept.drop_all();
#endif
}

}  // namespace mars
