#include "settings.h"

#include "arguments.h"

#include <boost/asio/ip/address.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>

namespace actquant::server {

using tools::Arguments;
using tools::UsageError;

const char* const usage = R"(actquant-serve [NAME=]MODEL... [options]: policies over websockets, in
openpi's protocol. The first model is the default. See docs/serve.md.

Who may connect
  --host ADDRESS           127.0.0.1; other machines need a key
  --port N                 8000; 0: any that is free
  --tls-certificate FILE   certificate chain (PEM): the server speaks TLS
  --tls-key FILE           the certificate's key (PEM)
  --insecure               lets other machines connect without a key
How much at a time
  --queue N                requests that may wait or run for a model (16)
  --deadline SECONDS       how long a request may wait (5)
  --keepalive SECONDS      how often a client is asked for a sign of life (20)
  --max-clients N          clients at a time (64)
  --max-message-mb MB      longest message (64)
What runs
  --rename THEIRS=OURS     a client's name for an input; THEIRS= leaves one out
  --threads N              0 (default): as many as a model has work for
  --device NAME            cpu (default), vulkan, cuda, auto: the first GPU, else the processor

Clients need the key in ACTQUANT_API_KEY if it is set. SIGTERM and Ctrl-C answer what was begun,
then end. A file that is renamed to a served one's path takes its place.
)";

namespace {

double above_zero(const Arguments& arguments, const std::string& name, const char* otherwise) {
    std::string text = arguments.one(name, otherwise);
    double number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || !(number > 0) ||
        !std::isfinite(number)) {
        throw UsageError("--" + name + " must be a number above 0, not " + text);
    }
    return number;
}

bool is_loopback(const std::string& host) {
    boost::system::error_code error;
    auto address = boost::asio::ip::make_address(host, error);
    return host == "localhost" || (!error && address.is_loopback());
}

std::optional<std::string> key_of_environment() {
    const char* found = std::getenv(key_variable);
    if (!found) {
        return std::nullopt;
    }
    std::string key = found;
    bool is_printable =
        std::all_of(key.begin(), key.end(), [](char c) { return c >= ' ' && c <= '~'; });
    if (key.empty() || !is_printable || key.front() == ' ' || key.back() == ' ') {
        throw UsageError(std::string(key_variable) +
                         " is empty or has letters that no header can carry");
    }
    return key;
}

std::pair<std::string, std::string> named_model(const std::string& given) {
    size_t equals = given.find('=');
    std::string path = equals == given.npos ? given : given.substr(equals + 1);
    std::string name = equals == given.npos ? std::filesystem::path(path).stem().string()
                                            : given.substr(0, equals);
    bool fits = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               c == '-' || c == '_' || c == '.';
    });
    if (!fits) {
        throw UsageError("'" + name + "' is no name for a model; give one as NAME=" + path);
    }
    return {name, path};
}

} // namespace

Settings settings_of(int argc, char** argv) {
    Arguments arguments(argc, argv,
                        {"host", "port", "tls-certificate", "tls-key", "queue", "deadline",
                         "keepalive", "max-clients", "max-message-mb", "rename", "threads",
                         "device"},
                        {"insecure"}, Arguments::any_number);
    Settings settings{};
    for (const std::string& given : arguments.models()) {
        auto model = named_model(given);
        for (const auto& [name, path] : settings.models) {
            if (name == model.first) {
                throw UsageError("two models are called " + name + "; give names as NAME=FILE");
            }
        }
        settings.models.push_back(std::move(model));
    }
    settings.host = arguments.one("host", "127.0.0.1");
    int port = arguments.whole_number("port", 8000, 0);
    if (port > UINT16_MAX) {
        throw UsageError("--port must be from 0 to 65535, not " + std::to_string(port));
    }
    settings.port = static_cast<uint16_t>(port);
    settings.api_key = key_of_environment();
    settings.certificate = arguments.one("tls-certificate", "");
    settings.certificate_key = arguments.one("tls-key", "");
    if (settings.certificate.empty() != settings.certificate_key.empty()) {
        throw UsageError("--tls-certificate and --tls-key belong together");
    }
    settings.queue = static_cast<size_t>(arguments.whole_number("queue", 16, 1));
    settings.deadline = Seconds(above_zero(arguments, "deadline", "5"));
    settings.keepalive = Seconds(above_zero(arguments, "keepalive", "20"));
    settings.max_clients = static_cast<size_t>(arguments.whole_number("max-clients", 64, 1));
    settings.max_message_bytes =
        static_cast<size_t>(1e6 * above_zero(arguments, "max-message-mb", "64"));
    settings.threads = arguments.whole_number("threads", 0, 0);
    settings.device = arguments.one("device", "cpu");
    for (const std::string& given : arguments.all("rename")) {
        size_t equals = given.find('=');
        if (equals == given.npos || equals == 0) {
            throw UsageError("--rename " + given + " is no THEIRS=OURS");
        }
        settings.renamed[given.substr(0, equals)] = given.substr(equals + 1);
    }
    if (!is_loopback(settings.host) && !settings.api_key && !arguments.has("insecure")) {
        throw UsageError(settings.host + " lets other machines connect: set " + key_variable +
                         ", or allow anybody to move your robot's policy by --insecure");
    }
    return settings;
}

} // namespace actquant::server
