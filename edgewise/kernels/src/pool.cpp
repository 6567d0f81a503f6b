#include "pool.h"

#include <chrono>
#include <cstdint>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace edgewise {

namespace {

constexpr int kSpins = 300;  // of a barrier, before the core is offered to others
constexpr std::chrono::microseconds kIdle(60);  // a helper without work waits awake, then sleeps

thread_local int own_place = 0;

class Pool {
 public:
  void run(int threads, const std::function<void(Crew&)>& work) {
    std::lock_guard<std::mutex> alone(calls_);
    threads = threads < kMostThreads ? threads : kMostThreads;
    Crew crew(threads);
    if (threads == 1) {
      work(crew);
      return;
    }
    const uint64_t before = call_.load(std::memory_order_relaxed);
    while (helpers_ < threads - 1) {
      const int number = helpers_++;
      std::thread([this, number, before] { help(number, before); }).detach();
    }
    work_ = &work;
    crew_ = &crew;
    busy_.store(threads - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      const uint64_t number = (before >> 16) + 1;
      call_.store(number << 16 | static_cast<uint64_t>(threads - 1), std::memory_order_release);
    }
    if (sleepers_.load(std::memory_order_acquire) > 0) wake_.notify_all();
    work(crew);
    for (int spins = 0; busy_.load(std::memory_order_acquire) > 0; relax())
      if (++spins > kSpins) std::this_thread::yield();
  }

 private:
  void help(int number, uint64_t seen) {
    own_place = number + 1;
    for (;;) {
      seen = await(seen);
      if (number >= static_cast<int>(seen & 0xffff)) continue;
      (*work_)(*crew_);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  // The next call: a helper spins a while, then sleeps.
  uint64_t await(uint64_t seen) {
    const auto end = std::chrono::steady_clock::now() + kIdle;
    while (std::chrono::steady_clock::now() < end)
      for (int spins = 0; spins < 16; ++spins, relax()) {
        const uint64_t now = call_.load(std::memory_order_acquire);
        if (now != seen) return now;
      }
    std::unique_lock<std::mutex> lock(sleep_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return call_.load(std::memory_order_acquire) != seen; });
    sleepers_.fetch_sub(1);
    return call_.load(std::memory_order_acquire);
  }

  std::mutex calls_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> call_{0};  // its number, and in the low 16 bits how many helpers it wants
  std::atomic<int> busy_{0}, sleepers_{0};
  int helpers_ = 0;
  const std::function<void(Crew&)>* work_ = nullptr;
  Crew* crew_ = nullptr;
};

// Never destroyed: helpers may still wait at exit. A child of fork() has none of the helpers, and
// perhaps locks that nobody will open: it gets a pool of its own.
Pool*& current() {
  static Pool* pool = [] {
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, [] { current() = new Pool; });
#endif
    return new Pool;
  }();
  return pool;
}

}  // namespace

int place() { return own_place; }

void Crew::start_over() {
  for (int i = 0; i < size_; ++i) taken_[i].count.store(0, std::memory_order_relaxed);
}

void Crew::barrier() {
  if (size_ == 1) return start_over();
  const unsigned phase = phase_.load(std::memory_order_acquire);
  if (waiting_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    start_over();
    waiting_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    return;
  }
  for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; relax())
    if (++spins > kSpins) std::this_thread::yield();
}

void run(int threads, const std::function<void(Crew&)>& work) {
  current()->run(threads, work);
}

}  // namespace edgewise
