#include "backend/reach.h"

#include "kernels/attention.h"
#include "kernels/panel_product.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

namespace actquant {
namespace {

constexpr int turns = 5;

// Units of work a second, of all threads together: the best of some turns.
double best_rate(int threads, const std::function<double(int thread)>& work) {
    double best = 0;
    for (int turn = 0; turn < turns; turn++) {
        std::atomic<int> waiting = threads;
        std::vector<double> rates(static_cast<size_t>(threads));
        std::vector<std::thread> workers;
        for (int thread = 0; thread < threads; thread++) {
            workers.emplace_back([&, thread] {
                waiting--;
                while (waiting > 0) {
                    std::this_thread::yield();
                }
                auto begin = std::chrono::steady_clock::now();
                double units = work(thread);
                std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
                rates[static_cast<size_t>(thread)] = units / passed.count();
            });
        }
        for (std::thread& worker : workers) {
            worker.join();
        }
        best = std::max(best, std::accumulate(rates.begin(), rates.end(), 0.0));
    }
    return best;
}

double memory_rate(int threads) {
    // Far more than the caches hold.
    constexpr size_t count = size_t{32} << 20;
    std::vector<uint64_t> words(count, 1);
    std::atomic<uint64_t> all = 0;
    return best_rate(threads, [&](int thread) {
        size_t first = count * static_cast<size_t>(thread) / static_cast<size_t>(threads);
        size_t end = count * static_cast<size_t>(thread + 1) / static_cast<size_t>(threads);
        all += std::accumulate(words.begin() + static_cast<std::ptrdiff_t>(first),
                               words.begin() + static_cast<std::ptrdiff_t>(end), uint64_t{0});
        return static_cast<double>((end - first) * sizeof(uint64_t));
    });
}

} // namespace

std::map<std::string, double> measure_reach(Isa isa, int threads) {
    constexpr int repetitions = 20'000;
    std::map<std::string, double> reach = {{"memory", memory_rate(threads)}};
    for (bool rounded : {false, true}) {
        const AttentionKernel& kernel = attention_kernel(isa, rounded);
        reach[kernel.products] =
            best_rate(threads, [&](int) { return kernel.exercise(repetitions); });
    }
    if (const PanelKernel* kernel = int8_kernel(isa)) {
        reach[kernel->name] =
            best_rate(threads, [&](int) { return kernel->exercise(repetitions); });
    }
    return reach;
}

} // namespace actquant
