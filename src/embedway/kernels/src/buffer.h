// A block of memory for weights or activations, on huge pages where it is large.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace embedway {

class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  // Makes it at least this large; what it held is gone if it grew. Throws std::bad_alloc.
  void reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    std::free(data_);
    data_ = nullptr, bytes_ = 0;
    const size_t page = bytes < kHugePage ? kSmallPage : kHugePage;
    const size_t rounded = (bytes + page - 1) / page * page;
    if (posix_memalign(&data_, page, rounded) != 0) throw std::bad_alloc();
#if defined(__linux__)
    if (page == kHugePage) madvise(data_, rounded, MADV_HUGEPAGE);  // weights are streamed: fewer page walks
#endif
    bytes_ = rounded;
  }

 private:
  static constexpr size_t kSmallPage = 4096, kHugePage = 2u << 20;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace embedway
