// Threads that work through phases together. No OpenMP, so that no second runtime of it comes into the process.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace embedway {

// Work in `units` that may be done in any order and by any thread; the phase after it begins when all are done.
struct Phase {
  int units;
  std::function<void(int thread, int first, int last)> work;  // units first … last - 1
};

class ThreadPool {
 public:
  // The caller is thread 0 of `threads`.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int size() const { return size_; }
  // Runs phases in order, from `first` on, until all are done or `stop` is true near the end of one; returns the next.
  // One caller at a time.
  size_t run(const std::shared_ptr<const std::vector<Phase>>& phases, size_t first = 0,
             const std::function<bool()>& stop = {});
  void run(Phase phase);

 private:
  struct Job;
  void serve(int thread);

  const int size_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;  // guarded by mutex_
  bool is_closing_ = false;   // guarded by mutex_
  std::atomic<unsigned> num_jobs_{0};
  std::vector<std::thread> workers_;
};

}  // namespace embedway
