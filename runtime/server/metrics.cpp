#include "metrics.h"

#include <cmath>
#include <cstdio>

namespace actquant::server {
namespace {

// As Prometheus' own client writes it: 3.0, not 3.
std::string number(double value) {
    char text[32];
    bool is_whole = value == std::floor(value) && std::fabs(value) < 1e15;
    std::snprintf(text, sizeof(text), is_whole ? "%.1f" : "%.10g", value);
    return text;
}

void write_head(std::string& text, const char* name, const char* help, const char* type) {
    text += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

// Names of models and outcomes have no letters that would have to be escaped.
std::string label(const std::string& model) {
    return "{model=\"" + model + "\"}";
}

template <typename Counts>
void write_counter(std::string& text, const char* name, const char* help, const Counts& counts) {
    write_head(text, name, help, "counter");
    for (const auto& [of, count] : counts) {
        text += std::string(name) + "{model=\"" + of.first + "\",outcome=\"" + of.second + "\"} " +
                number(static_cast<double>(count)) + "\n";
    }
}

template <typename Values>
void write_gauge(std::string& text, const char* name, const char* help, const Values& values) {
    write_head(text, name, help, "gauge");
    for (const auto& [model, value] : values) {
        text += name + label(model) + " " + number(static_cast<double>(value)) + "\n";
    }
}

} // namespace

Metrics::Metrics(const std::vector<std::pair<std::string, std::string>>& models) {
    for (const auto& [name, path] : models) {
        inference[name];
        answers[name];
        waiting[name] = 0;
        sessions[name] = 0;
    }
}

void Metrics::count_request(const std::string& model, const std::string& outcome) {
    requests[{model, outcome}]++;
}

void Metrics::count_reload(const std::string& model, const std::string& outcome) {
    reloads[{model, outcome}]++;
}

void Metrics::Histogram::add(double seconds) {
    size_t bucket = 0;
    while (bucket < buckets.size() && seconds > buckets[bucket]) {
        bucket++;
    }
    counts[bucket]++;
    sum += seconds;
}

void Metrics::add_inference(const std::string& model, double seconds) {
    inference[model].add(seconds);
}

void Metrics::add_answer(const std::string& model, double seconds) {
    answers[model].add(seconds);
}

void Metrics::write(std::string& text, const char* name, const Histograms& of_models) {
    for (const auto& [model, histogram] : of_models) {
        double total = 0;
        for (size_t k = 0; k <= buckets.size(); k++) {
            total += static_cast<double>(histogram.counts[k]);
            std::string most = k < buckets.size() ? number(buckets[k]) : "+Inf";
            text += std::string(name) + "_bucket{le=\"" + most + "\",model=\"" + model + "\"} " +
                    number(total) + "\n";
        }
        text += std::string(name) + "_count" + label(model) + " " + number(total) + "\n";
        text += std::string(name) + "_sum" + label(model) + " " + number(histogram.sum) + "\n";
    }
}

std::string Metrics::text() const {
    std::string text;
    write_counter(text, "actquant_requests_total", "Messages of clients, by how they ended",
                  requests);
    write_head(text, "actquant_inference_seconds", "Time that a policy takes for a chunk",
               "histogram");
    write(text, "actquant_inference_seconds", inference);
    write_head(text, "actquant_answer_seconds", "Time from a message to its answer", "histogram");
    write(text, "actquant_answer_seconds", answers);
    write_gauge(text, "actquant_waiting_requests", "Requests that wait or run", waiting);
    write_gauge(text, "actquant_sessions", "Connected clients", sessions);
    write_counter(text, "actquant_reloads_total", "New files found in the place of old ones",
                  reloads);
    return text;
}

} // namespace actquant::server
