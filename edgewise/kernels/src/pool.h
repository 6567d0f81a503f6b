// Threads that stay, wake quickly and meet at barriers.
#pragma once
#include <atomic>
#include <condition_variable>
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

// The threads of one call. All of them run the same code; `each` shares a phase's work out and
// ends when all of it is done.
class Crew {
 public:
  explicit Crew(int size) : size_(size) {}

  template <class F>
  void each(int count, int chunk, F&& work) {
    for (int i; (i = next_.fetch_add(chunk, std::memory_order_relaxed)) < count;)
      work(i, i + chunk < count ? i + chunk : count);
    barrier();
  }

  // A chunk for `count` pieces that leaves every thread several to take.
  int chunk(int count) const {
    const int found = count / (size_ * 8);
    return size_ == 1 ? count + 1 : found > 0 ? found : 1;
  }

 private:
  void barrier();

  const int size_;
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> waiting_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
};

// Runs `work` on `threads` threads, the caller among them; one call at a time.
void run(int threads, const std::function<void(Crew&)>& work);

}  // namespace edgewise
