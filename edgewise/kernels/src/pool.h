// Threads that stay, wake quickly and meet at barriers.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace edgewise {

// Hints that the thread is waiting.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kMostThreads = 64;

// The number of this thread in the crew that it works for.
int place();

// The threads of one call. All of them run the same code; `each` shares a phase's work out and
// ends when all of it is done.
class Crew {
 public:
  explicit Crew(int size) : size_(size) {}

  int size() const { return size_; }

  // A thread takes its own share of the pieces in order, which is how memory is read fastest, and
  // then helps the others with theirs.
  template <class F>
  void each(int count, int chunk, F&& work) {
    for (int k = 0, share = place(); k < size_; ++k, share = (share + 1) % size_) {
      const int from = bound(count, share), to = bound(count, share + 1);
      std::atomic<int>& taken = taken_[share].count;
      for (int i; (i = from + taken.fetch_add(chunk, std::memory_order_relaxed)) < to;)
        work(i, i + chunk < to ? i + chunk : to);
    }
    barrier();
  }

  // A chunk for `count` pieces that leaves every thread several to take.
  int chunk(int count) const {
    const int found = count / (size_ * 8);
    return size_ == 1 ? count + 1 : found > 0 ? found : 1;
  }

 private:
  struct alignas(64) Taken {
    std::atomic<int> count{0};
  };

  void barrier();
  void start_over();
  int bound(int count, int share) const { return int(int64_t(count) * share / size_); }

  const int size_;
  Taken taken_[kMostThreads];
  alignas(64) std::atomic<int> waiting_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
};

// Runs `work` on `threads` threads, at most kMostThreads, the caller among them; one call at a time.
void run(int threads, const std::function<void(Crew&)>& work);

}  // namespace edgewise
