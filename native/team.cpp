#include "team.hpp"

#include <algorithm>
#include <mutex>
#include <thread>

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif
#if __has_include(<dlfcn.h>)
#include <dlfcn.h>
#endif

namespace bptt {

namespace {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// How long to look before sleeping, in pauses of some 10 to 40 ns. Within a call the next phase is near. Between calls
// the time of a short loss function; longer would take the core from whoever works in between.
constexpr int patience_within_a_call = 4000;
constexpr int patience_between_calls = 4000;

// Longer than any thread waits for another that is running.
constexpr auto kept_waiting = std::chrono::microseconds(300);

using Clock = std::chrono::steady_clock;

// When to work alone because another process wants the cores: a thread that loses its core does so for milliseconds,
// and again as long as the other runs. One such call may be chance and costs the time of a few calls alone; each
// further one doubles it, and four times that long without any halves it.
class Caution {
public:
    bool works_alone(Clock::time_point now) const { return now < alone_until_; }

    void learn(Clock::time_point begun, Clock::time_point now, bool was_kept_waiting) {
        if (threads_may_be_asleep_) {  // after a time alone; waking them says nothing
            threads_may_be_asleep_ = false;
            calm_since_ = now;
        } else if (was_kept_waiting) {
            alone_ = std::min(std::max(2 * alone_, 4 * (now - begun)), longest);
            alone_until_ = now + alone_;
            threads_may_be_asleep_ = true;
        } else if (now - calm_since_ > 4 * alone_) {
            alone_ = std::max(alone_ / 2, shortest);
            calm_since_ = now;
        }
    }

private:
    static constexpr Clock::duration shortest = std::chrono::microseconds(500), longest = std::chrono::seconds(1);

    Clock::duration alone_ = shortest;
    Clock::time_point alone_until_{}, calm_since_{};
    bool threads_may_be_asleep_ = false;
};

bool look_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old, int patience) {
    for (int look = 0; look < patience; ++look) {
        if (value.load(std::memory_order_acquire) != old) return true;
        pause();
    }
    return false;
}

void wait_until_changed(const std::atomic<std::uint32_t>& value, std::uint32_t old, int patience) {
    if (!look_for_change(value, old, patience)) value.wait(old, std::memory_order_acquire);
}

// The threads of GNU OpenMP, if this process has them already: torch's do its products, and after each they look for
// more work for a while before they sleep. Threads of our own would have to wait for the core until then.
struct OpenMP {
    void (*parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags) = nullptr;
    int (*thread_number)() = nullptr;

    OpenMP() {
#if __has_include(<dlfcn.h>)
        void* library = dlopen("libgomp.so.1", RTLD_NOW | RTLD_NOLOAD);
        if (!library) return;
        parallel = reinterpret_cast<decltype(parallel)>(dlsym(library, "GOMP_parallel"));
        thread_number = reinterpret_cast<decltype(thread_number)>(dlsym(library, "omp_get_thread_num"));
#endif
    }

    bool is_there() const { return parallel && thread_number; }
};

// GNU OpenMP does not survive a fork: a child that asks for the threads of its parent waits for ever.
std::atomic<bool> is_forked{false};

// Who runs tasks: OpenMP's threads where they are there, else workers of our own. Workers are never joined: at exit
// they sleep, and the pool is never destroyed.
class Pool {
public:
    // Runs the task on as many threads as asked; or returns false if another call is at it, or if threads of late
    // had to wait for a core.
    bool run(std::size_t threads, Task task, const void* context) {
        const std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
        const Clock::time_point begun = Clock::now();
        if (!lock || caution_.works_alone(begun)) return false;
        Phases phases(threads);
        const Clock::time_point done = openmp_.is_there() && !is_forked ? run_by_openmp(phases, task, context)
                                                                        : run_by_workers(phases, task, context);
        const Clock::time_point now = Clock::now();
        const bool went_on_alone = phases.survivor.load(std::memory_order_relaxed) != 0;
        caution_.learn(begun, now,
                       went_on_alone || now - done > std::max<Clock::duration>(kept_waiting, (done - begun) / 4));
        return true;
    }

private:
    static constexpr std::uint32_t closed = 1u << 31;

    // Both return when the caller had nothing left to do.
    Clock::time_point run_by_openmp(Phases& phases, Task task, const void* context) {
        struct Call {
            OpenMP openmp;
            Phases& phases;
            Task task;
            const void* context;
            Clock::time_point done;
        } call{openmp_, phases, task, context, {}};
        const auto take_part = [](void* data) {
            Call& call = *static_cast<Call*>(data);
            const auto index = static_cast<std::size_t>(call.openmp.thread_number());
            Member member(call.phases, index);
            call.task(call.context, member);
            if (index == 0) call.done = Clock::now();
        };
        openmp_.parallel(take_part, &call, static_cast<unsigned>(phases.members), 0);
        return call.done;
    }

    Clock::time_point run_by_workers(Phases& phases, Task task, const void* context) {
        for (; workers_ + 1 < phases.members; ++workers_)
            std::thread([this, index = workers_ + 1, seen = calls_.load()] { serve(index, seen); }).detach();
        phases_ = &phases;
        task_ = task;
        context_ = context;
        inside_.store(0, std::memory_order_release);  // opens the door
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();

        Member caller(phases, 0);
        task(context, caller);
        const Clock::time_point done = Clock::now();

        // No phase is left, but a late worker may still be finding that out.
        std::uint32_t inside = inside_.fetch_or(closed, std::memory_order_acq_rel) | closed;
        for (; inside != closed; inside = inside_.load(std::memory_order_acquire))
            wait_until_changed(inside_, inside, patience_within_a_call);
        return done;
    }

    void serve(std::size_t index, std::uint32_t seen) {
        for (;;) {
            wait_until_changed(calls_, seen, patience_between_calls);
            seen = calls_.load(std::memory_order_acquire);
            if (!enter()) continue;
            if (index < phases_->members) {
                Member member(*phases_, index);
                task_(context_, member);
            }
            if (inside_.fetch_sub(1, std::memory_order_acq_rel) - 1 == closed) inside_.notify_all();
        }
    }

    bool enter() {
        std::uint32_t inside = inside_.load(std::memory_order_acquire);
        while (!(inside & closed))
            if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) return true;
        return false;
    }

    const OpenMP openmp_;
    std::mutex busy_;
    std::size_t workers_ = 0;
    Caution caution_;
    Phases* phases_ = nullptr;
    Task task_ = nullptr;
    const void* context_ = nullptr;
    std::atomic<std::uint32_t> calls_{0};
    std::atomic<std::uint32_t> inside_{closed};  // workers in the current call
};

std::atomic<Pool*> pool{nullptr};

std::mutex creating;

#if __has_include(<pthread.h>)
// Threads do not survive a fork: the child leaves the old pool as it is and makes a new one when it needs it.
const int registered = pthread_atfork([] { creating.lock(); }, [] { creating.unlock(); },
                                      [] {
                                          is_forked = true;
                                          pool.store(nullptr);
                                          creating.unlock();
                                      });
#endif

Pool& the_pool() {
    if (Pool* existing = pool.load(std::memory_order_acquire)) return *existing;
    const std::lock_guard<std::mutex> lock(creating);
    if (pool.load() == nullptr) pool.store(new Pool);
    return *pool.load();
}

}  // namespace

std::size_t Member::claim(std::uint32_t number, std::size_t owner, std::size_t share) {
    std::atomic<std::uint64_t>& claimed = phases_.claimed[owner];
    std::uint64_t current = claimed.load(std::memory_order_acquire);
    while (current >> 32 == number && (current & 0xffffffff) < share)
        if (claimed.compare_exchange_weak(current, current + 1, std::memory_order_acq_rel)) return current & 0xffffffff;
    return share;
}

void Member::finish(std::uint32_t number, std::uint32_t finished, std::size_t items, Clock::time_point begun) {
    if (finished != 0 && phases_.finished_items.fetch_add(finished, std::memory_order_acq_rel) + finished == items) {
        phases_.finished_items.store(0, std::memory_order_relaxed);
        for (std::size_t owner = 0; owner < phases_.members; ++owner)
            phases_.claimed[owner].store(std::uint64_t{number + 1} << 32, std::memory_order_release);
        phases_.finished_phases.store(number + 1, std::memory_order_release);
        phases_.finished_phases.notify_all();
        return;
    }
    if (look_for_change(phases_.finished_phases, number, patience_within_a_call)) return;
    const Clock::time_point waiting = Clock::now();
    phases_.finished_phases.wait(number, std::memory_order_acquire);
    if (finished == 0) return;
    // Shares differ by a factor of two at most, so whoever keeps us longer is not running.
    const auto own_work = waiting - begun;
    std::size_t nobody = 0;
    if (Clock::now() - waiting > 2 * own_work + kept_waiting)
        phases_.survivor.compare_exchange_strong(nobody, index_ + 1);
}

void run_team(std::size_t threads, Task task, const void* context) {
    if (threads > 1 && the_pool().run(threads, task, context)) return;
    Phases phases(1);
    Member alone(phases, 0);
    task(context, alone);
}

}  // namespace bptt
