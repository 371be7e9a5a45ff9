#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace actquant::server {

using Seconds = std::chrono::duration<double>;

// Environment variable with the key that clients must have: not on the command line, where other
// users would see it.
inline constexpr const char* key_variable = "ACTQUANT_API_KEY";

struct Settings {
    std::vector<std::pair<std::string, std::string>> models; // name, file; the first is the default
    std::string host;
    uint16_t port;
    std::optional<std::string> api_key;
    std::string certificate; // empty: no TLS
    std::string certificate_key;
    size_t queue; // requests that may wait or run for a model
    Seconds deadline;
    Seconds keepalive;
    size_t max_clients;
    size_t max_message_bytes;
    int threads;
    std::string device;
    std::map<std::string, std::string> renamed;
};

extern const char* const usage;

// Throws UsageError for what makes no sense or is not safe.
Settings settings_of(int argc, char** argv);

} // namespace actquant::server
