#pragma once

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace actquant::server {

// What a server counts, for Prometheus. Used from one thread.
class Metrics {
  public:
    explicit Metrics(const std::vector<std::pair<std::string, std::string>>& models);

    void count_request(const std::string& model, const std::string& outcome);
    void count_reload(const std::string& model, const std::string& outcome);
    void add_inference(const std::string& model, double seconds);
    void add_answer(const std::string& model, double seconds);
    void set_waiting(const std::string& model, size_t requests) { waiting[model] = requests; }
    void add_session(const std::string& model, int change) { sessions[model] += change; }

    // All values in Prometheus' text format.
    std::string text() const;

  private:
    static constexpr std::array<double, 13> buckets{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                    0.25,  0.5,    1,     2.5,  5,     10};
    struct Histogram {
        std::array<size_t, buckets.size() + 1> counts{};
        double sum = 0;
        void add(double seconds);
    };
    using Outcome = std::pair<std::string, std::string>; // of a model
    using Histograms = std::map<std::string, Histogram>;

    static void write(std::string& text, const char* name, const Histograms& of_models);

    std::map<Outcome, size_t> requests, reloads;
    Histograms inference, answers;
    std::map<std::string, size_t> waiting;
    std::map<std::string, long> sessions;
};

} // namespace actquant::server
