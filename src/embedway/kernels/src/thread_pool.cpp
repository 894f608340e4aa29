#include "thread_pool.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace embedway {
namespace {

// How finely a phase is dealt out: a thread that comes late, or loses its core, leaves its part to the others.
constexpr int kClaimsPerThread = 4;
// The last units of a phase end within microseconds, so a thread spins for them. Then it sleeps: on a machine of few
// cores the thread that it waits for may be waiting for this one's core.
constexpr int kSpins = 1000;
// After a job the workers look for another one for some microseconds; waking them takes longer than a short phase.
constexpr int kIdleSpins = 2000;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

// No thread is waited for, only units that one has begun: a worker that wakes late finds nothing left and goes. It may
// still hold the job when `run` has returned, which is why the job is shared.
struct ThreadPool::Job {
  struct alignas(64) Progress {
    std::atomic<int> claimed{0};
    std::atomic<int> done{0};
  };
  const std::shared_ptr<const std::vector<Phase>> phases;
  const size_t first_phase;
  const std::function<bool()> stop;
  std::vector<Progress> progress;
  std::atomic<size_t> end;  // the phase before which all threads stop
  std::mutex mutex;
  std::condition_variable phase_done;
  std::atomic<int> sleepers{0};

  Job(std::shared_ptr<const std::vector<Phase>> given, size_t first, std::function<bool()> stop_when)
      : phases(std::move(given)),
        first_phase(first),
        stop(std::move(stop_when)),
        progress(phases->size()),
        end(phases->size()) {}

  void work(int thread, int threads) {
    for (size_t i = first_phase; i < end.load(std::memory_order_relaxed); i++) {
      const Phase& phase = (*phases)[i];
      const int units = phase.units, claim = std::max(1, units / (threads * kClaimsPerThread));
      for (int first; (first = progress[i].claimed.fetch_add(claim, std::memory_order_relaxed)) < units;) {
        const int last = std::min(first + claim, units);
        phase.work(thread, first, last);
        // one thread decides, before the others can pass this phase
        if (last == units && stop && stop()) end.store(i + 1, std::memory_order_relaxed);
        // in one order with `sleepers`: either this thread sees the sleeper, or the sleeper sees that the phase is done
        if (progress[i].done.fetch_add(last - first) + last - first == units && sleepers.load() > 0) {
          std::lock_guard<std::mutex> lock(mutex);
          phase_done.notify_all();
        }
      }
      wait_for(progress[i].done, units);
    }
  }

  void wait_for(const std::atomic<int>& done, int units) {
    for (int spins = 0; spins < kSpins; spins++) {
      if (done.load(std::memory_order_acquire) >= units) return;
      relax();
    }
    std::unique_lock<std::mutex> lock(mutex);
    sleepers++;
    phase_done.wait(lock, [&] { return done.load() >= units; });
    sleepers--;
  }
};

ThreadPool::ThreadPool(int threads) : size_(std::max(1, threads)) {
  for (int thread = 1; thread < size_; thread++) workers_.emplace_back([this, thread] { serve(thread); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_closing_ = true;
    num_jobs_++;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(Phase phase) { run(std::make_shared<const std::vector<Phase>>(1, std::move(phase))); }

size_t ThreadPool::run(const std::shared_ptr<const std::vector<Phase>>& phases, size_t first,
                       const std::function<bool()>& stop) {
  const auto job = std::make_shared<Job>(phases, first, stop);
  if (size_ > 1) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      num_jobs_++;
    }
    wake_.notify_all();
  }
  job->work(0, size_);
  if (size_ > 1) {
    std::lock_guard<std::mutex> lock(mutex_);
    job_ = nullptr;
  }
  return job->end;
}

void ThreadPool::serve(int thread) {
  for (unsigned seen = 0;;) {
    for (int spins = 0; spins < kIdleSpins && num_jobs_.load(std::memory_order_relaxed) == seen; spins++) relax();
    std::shared_ptr<Job> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return num_jobs_ != seen; });
      if (is_closing_) return;
      seen = num_jobs_;
      job = job_;
    }
    if (job) job->work(thread, size_);
  }
}

}  // namespace embedway
