#include <utility> // before Boost 1.74's coroutines, which lack it

#include "connection.h"

#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <openssl/crypto.h>

namespace actquant::server {

namespace http = boost::beast::http;
using asio::ip::tcp;
using PlainStream = beast::tcp_stream;
using TlsStream = beast::ssl_stream<beast::tcp_stream>;

namespace {

constexpr size_t max_strangers = 256; // connections that have not said yet what they want
constexpr uint32_t max_head_bytes = 16 << 10;
constexpr std::chrono::milliseconds short_pause{100};
constexpr std::chrono::seconds file_pause{1};
constexpr const char* metrics_path = "/metrics";

bool is_equal(std::string_view given, std::string_view wanted) {
    return given.size() == wanted.size() &&
           CRYPTO_memcmp(given.data(), wanted.data(), wanted.size()) == 0;
}

template <typename Request> std::string_view path_of(const Request& request) {
    std::string_view target(request.target().data(), request.target().size());
    return target.substr(0, target.find('?'));
}

template <typename Request>
bool is_allowed(const Request& request, const std::optional<std::string>& key) {
    if (!key) {
        return true;
    }
    auto [begin, end] = request.equal_range(http::field::authorization);
    if (begin == end || std::next(begin) != end) {
        return false;
    }
    return is_equal({begin->value().data(), begin->value().size()}, "Api-Key " + *key);
}

std::optional<asio::ssl::context> tls_of(const Settings& settings) {
    if (settings.certificate.empty()) {
        return std::nullopt;
    }
    asio::ssl::context context(asio::ssl::context::tls_server);
    context.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                        asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                        asio::ssl::context::no_tlsv1_1);
    try {
        context.use_certificate_chain_file(settings.certificate);
        context.use_private_key_file(settings.certificate_key, asio::ssl::context::pem);
    } catch (const boost::system::system_error& error) {
        throw std::runtime_error(std::string("the certificate cannot be read: ") + error.what());
    }
    return context;
}

} // namespace

// A connection counts until it is closed.
struct Server::Stranger {
    explicit Stranger(Server& server) : server(server) { server.sockets++; }
    ~Stranger() {
        if (counts) {
            server.sockets--;
        }
    }
    // From now on the client's own object counts it.
    void is_known() { counts = false; }
    Server& server;
    bool counts = true;
};

Server::Server(const Settings& settings)
    : settings(settings), metrics(settings.models), tls(tls_of(settings)) {
    for (const auto& [name, path] : settings.models) {
        models.push_back(std::make_unique<Model>(name, path, settings, metrics));
    }
    listen();
}

void Server::listen() {
    try {
        tcp::resolver resolver(io);
        uint16_t free_port = settings.port;
        for (const auto& found : resolver.resolve(settings.host, std::to_string(settings.port))) {
            tcp::endpoint endpoint = found.endpoint();
            endpoint.port(free_port);
            tcp::acceptor acceptor(io);
            acceptor.open(endpoint.protocol());
            acceptor.set_option(tcp::acceptor::reuse_address(true));
            if (endpoint.address().is_v6()) {
                acceptor.set_option(asio::ip::v6_only(true));
            }
            acceptor.bind(endpoint);
            acceptor.listen();
            free_port = acceptor.local_endpoint().port();
            acceptors.push_back(std::move(acceptor));
        }
    } catch (const boost::system::system_error& error) {
        throw std::runtime_error("cannot listen on " + settings.host + ":" +
                                 std::to_string(settings.port) + ": " + error.code().message());
    }
}

uint16_t Server::port() const {
    return acceptors.front().local_endpoint().port();
}

void Server::start(asio::awaitable<void> work) {
    asio::co_spawn(io, std::move(work), [](std::exception_ptr failed) {
        try {
            if (failed) {
                std::rethrow_exception(failed);
            }
        } catch (const boost::system::system_error&) {
            // a connection that has ended
        } catch (const std::exception& error) {
            std::fprintf(stderr, "a connection failed: %s\n", error.what());
        }
    });
}

void Server::run() {
    asio::signal_set signals(io, SIGINT, SIGTERM);
    signals.async_wait([this](boost::system::error_code error, int) {
        if (!error) {
            start(drain());
        }
    });
    for (tcp::acceptor& acceptor : acceptors) {
        start(accept(acceptor));
    }
    start(watch_files());
    while (!io.stopped()) {
        try {
            io.run();
        } catch (const std::exception& error) { // e.g. no memory for one message
            std::fprintf(stderr, "a connection failed: %s\n", error.what());
        }
    }
    for (auto& model : models) {
        model->close();
    }
}

asio::awaitable<void> Server::accept(tcp::acceptor& acceptor) {
    while (true) {
        boost::system::error_code error;
        tcp::socket socket =
            co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
        if (!acceptor.is_open()) {
            co_return;
        }
        if (error) { // e.g. no file descriptor is free
            asio::steady_timer timer(io, short_pause);
            co_await timer.async_wait(asio::use_awaitable);
        } else if (sockets < settings.max_clients + max_strangers) {
            start(meet(std::move(socket)));
        }
    }
}

asio::awaitable<void> Server::meet(tcp::socket socket) {
    boost::system::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    if (!tls) {
        return meet(PlainStream(std::move(socket)));
    }
    return meet(TlsStream(std::move(socket), *tls));
}

template <typename Request> std::optional<Server::Page> Server::page(const Request& request) const {
    std::string_view path = path_of(request);
    if (path == "/healthz") {
        return Page{200, "OK\n"};
    }
    if (path == "/readyz") {
        std::string names;
        for (const auto& each : models) {
            names += each->is_broken() ? (names.empty() ? "" : ", ") + each->name() : "";
        }
        return stopping         ? Page{503, "stopping\n"}
               : !names.empty() ? Page{503, "broken: " + names + "\n"}
                                : Page{200, "OK\n"};
    }
    if (path == metrics_path) {
        return Page{200, metrics.text()};
    }
    if (!is_allowed(request, settings.api_key)) {
        return Page{401, "wanted: the header 'Authorization: Api-Key KEY'\n"};
    }
    if (!model(path)) {
        std::string names;
        for (const auto& each : models) {
            names += (names.empty() ? "" : ", ") + each->name();
        }
        return Page{404, "no such model; there are: " + names + "\n"};
    }
    if (stopping || clients.size() >= settings.max_clients) {
        return Page{503, stopping ? "stopping\n" : "too many clients\n"};
    }
    if (!websocket::is_upgrade(request)) {
        return Page{426, "wanted: a websocket\n"};
    }
    return std::nullopt;
}

Model* Server::model(std::string_view path) const {
    while (path.starts_with('/')) {
        path.remove_prefix(1);
    }
    while (path.ends_with('/')) {
        path.remove_suffix(1);
    }
    for (const auto& each : models) {
        if (path.empty() || each->name() == path) {
            return each.get();
        }
    }
    return nullptr;
}

// Reads what a connection wants: a page, or a policy.
template <typename Stream> asio::awaitable<void> Server::meet(Stream stream) {
    Stranger stranger(*this);
    beast::tcp_stream& lowest = beast::get_lowest_layer(stream);
    lowest.expires_after(handshake_limit);
    if constexpr (std::is_same_v<Stream, TlsStream>) {
        co_await stream.async_handshake(asio::ssl::stream_base::server, asio::use_awaitable);
    }
    beast::flat_buffer buffer(max_head_bytes);
    http::request_parser<http::empty_body> parser;
    parser.header_limit(max_head_bytes);
    co_await http::async_read_header(stream, buffer, parser, asio::use_awaitable);
    const auto& request = parser.get();
    if (std::optional<Page> found = page(request)) {
        http::response<http::string_body> response(static_cast<http::status>(found->status), 11);
        response.set(http::field::server, "actquant");
        response.set(http::field::content_type, path_of(request) == metrics_path
                                                    ? "text/plain; version=0.0.4; charset=utf-8"
                                                    : "text/plain; charset=utf-8");
        response.keep_alive(false);
        response.body() = std::move(found->text);
        response.prepare_payload();
        co_await http::async_write(stream, response, asio::use_awaitable);
        boost::system::error_code ignored;
        lowest.socket().shutdown(tcp::socket::shutdown_send, ignored);
        co_return;
    }
    Model& wanted = *model(path_of(request));
    lowest.expires_never();
    stranger.is_known();
    auto client = std::make_shared<Connection<Stream>>(*this, wanted, std::move(stream));
    co_await client->run(request);
}

asio::awaitable<void> Server::watch_files() {
    asio::steady_timer timer(io);
    while (true) {
        timer.expires_after(file_pause);
        co_await timer.async_wait(asio::use_awaitable);
        for (auto& model : models) {
            co_await model->look_for_another_file();
        }
    }
}

// Waits until what was begun is answered, at most as long as a request may wait; then all
// connections are closed.
asio::awaitable<void> Server::drain() {
    stopping = true;
    asio::steady_timer timer(io);
    auto wait_while = [&](auto condition, Seconds limit) -> asio::awaitable<void> {
        Clock::time_point end = Clock::now() + std::chrono::duration_cast<Clock::duration>(limit);
        while (condition() && Clock::now() < end) {
            timer.expires_after(short_pause / 10);
            co_await timer.async_wait(asio::use_awaitable);
        }
    };
    co_await wait_while([&] { return in_work > 0; }, settings.deadline);
    for (tcp::acceptor& acceptor : acceptors) {
        acceptor.close();
    }
    for (Client* client : std::list<Client*>(clients)) {
        client->end();
    }
    co_await wait_while([&] { return !clients.empty(); }, 2 * Seconds(farewell_limit));
    io.stop();
}

} // namespace actquant::server
