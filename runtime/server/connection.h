#pragma once

#include "server.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/websocket.hpp>

namespace actquant::server {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;
using Clock = std::chrono::steady_clock;

inline constexpr std::chrono::seconds handshake_limit{10};
inline constexpr std::chrono::seconds farewell_limit{1};

std::string greeting(const Model& model);
std::string answer(const Interface& policy, const Asked& asked, const Chunk& chunk, double seconds,
                   std::optional<double> previous_seconds);

// How a message ended; code none: the connection goes on.
struct Outcome {
    std::string data; // the answer, or what is wrong
    const char* name = "ok";
    websocket::close_code code = websocket::close_code::none;
};

// Greets a client with what the policy is, then answers its messages one by one. One coroutine
// answers, one reads ahead by a message, one asks for signs of life; all run in the server's
// thread.
template <typename Stream>
class Connection : public Client, public std::enable_shared_from_this<Connection<Stream>> {
  public:
    Connection(Server& server, Model& model, Stream stream)
        : server(server), model(model), socket(std::move(stream)), session(model.policy()),
          changed(socket.get_executor(), Clock::time_point::max()), alive(socket.get_executor()),
          farewell(socket.get_executor()) {
        place = server.clients.insert(server.clients.end(), this);
        server.metrics.add_session(model.name(), 1);
    }
    ~Connection() override {
        leave();
        server.sockets--;
    }

    template <typename Request> asio::awaitable<void> run(const Request& request) {
        auto self = this->shared_from_this();
        socket.set_option(websocket::stream_base::timeout{handshake_limit,
                                                          websocket::stream_base::none(), false});
        socket.set_option(websocket::stream_base::decorator(
            [](websocket::response_type& response) { response.set("Server", "actquant"); }));
        socket.read_message_max(server.settings.max_message_bytes);
        socket.auto_fragment(false);
        socket.control_callback([this](auto, auto) { heard = Clock::now(); });
        co_await socket.async_accept(request, asio::use_awaitable);
        server.start(read(self));
        server.start(ask_for_life(self));
        try {
            co_await answer_all();
        } catch (const std::exception&) {
            // the client has gone, or there was no memory for it
        }
        leave();
        ended = true;
        changed.cancel();
        alive.cancel();
        farewell.cancel();
        lowest().close();
    }

    void end() override {
        server.start(hang_up(this->shared_from_this(), websocket::close_code::going_away,
                             "the server stops"));
    }

  private:
    struct Received {
        beast::flat_buffer bytes;
        bool is_text = false;
    };
    using Self = std::shared_ptr<Connection>;

    beast::tcp_stream& lowest() { return beast::get_lowest_layer(socket); }

    // No client any more, also where the other end has not said so yet.
    void leave() {
        if (!has_left) {
            has_left = true;
            server.clients.erase(place);
            server.metrics.add_session(model.name(), -1);
        }
    }

    template <typename Condition> asio::awaitable<void> until(Condition condition) {
        while (!condition()) {
            boost::system::error_code woken;
            co_await changed.async_wait(asio::redirect_error(asio::use_awaitable, woken));
        }
    }

    asio::awaitable<void> read(Self /* is kept */) {
        try {
            while (!ended) {
                is_full = inbox != nullptr;
                co_await until([&] { return !inbox || ended; });
                is_full = false;
                heard = Clock::now();
                auto received = std::make_shared<Received>();
                co_await socket.async_read(received->bytes, asio::use_awaitable);
                received->is_text = socket.got_text();
                heard = Clock::now();
                inbox = std::move(received);
                changed.cancel();
            }
        } catch (const boost::system::system_error&) {
            // the end of the connection, or a frame that is none
        }
        ended = true;
        changed.cancel();
    }

    asio::awaitable<void> answer_all() {
        socket.binary(true);
        std::string hello = greeting(model);
        co_await socket.async_write(asio::buffer(hello), asio::use_awaitable);
        std::optional<double> previous_seconds;
        while (true) {
            co_await until([&] { return inbox || ended; });
            if (!inbox) {
                co_return;
            }
            std::shared_ptr<Received> received = std::move(inbox);
            inbox = nullptr;
            changed.cancel();
            Clock::time_point begin = Clock::now();
            struct InWork {
                explicit InWork(size_t& count) : count(count) { count++; }
                ~InWork() { count--; }
                size_t& count;
            };
            Outcome outcome;
            {
                InWork work(server.in_work);
                outcome = co_await answer_one(std::move(received), previous_seconds);
                socket.text(outcome.code != websocket::close_code::none);
                co_await socket.async_write(asio::buffer(outcome.data), asio::use_awaitable);
            }
            server.metrics.count_request(model.name(), outcome.name);
            if (outcome.code != websocket::close_code::none) {
                co_await hang_up(this->shared_from_this(), outcome.code, outcome.name);
                co_return;
            }
            previous_seconds = Seconds(Clock::now() - begin).count();
            server.metrics.add_answer(model.name(), *previous_seconds);
        }
    }

    asio::awaitable<Outcome> answer_one(std::shared_ptr<Received> received,
                                        std::optional<double> previous_seconds) {
        try {
            if (received->is_text) {
                throw MessageError("a message is binary (msgpack), not text");
            }
            Clock::time_point begin = Clock::now();
            auto bytes = received->bytes.data();
            Map message = unpack({static_cast<const char*>(bytes.data()), bytes.size()});
            Asked asked = session.take(message, received);
            Chunk chunk = co_await model.act(asked);
            server.metrics.add_inference(model.name(), chunk.seconds);
            Outcome outcome;
            outcome.data = answer(*model.policy(), asked, chunk,
                                  Seconds(Clock::now() - begin).count(), previous_seconds);
            session.keep(std::move(chunk.actions));
            co_return outcome;
        } catch (const MessageError& error) {
            co_return Outcome{error.what(), "bad message", websocket::close_code::policy_error};
        } catch (const BusyError& error) {
            co_return Outcome{error.what(), "busy", websocket::close_code::try_again_later};
        } catch (const FileError& error) {
            co_return Outcome{error.what(), "model file", websocket::close_code::internal_error};
        } catch (const std::exception& error) { // whatever fails, the server and the others go on
            std::fprintf(stderr, "%s: a chunk failed: %s\n", model.name().c_str(), error.what());
            co_return Outcome{error.what(), "failed", websocket::close_code::internal_error};
        }
    }

    // Closes the connection; who does not answer that in time is cut off.
    asio::awaitable<void> hang_up(Self self, websocket::close_code code, const char* reason) {
        if (is_closing) {
            co_return;
        }
        is_closing = true;
        server.start(cut_off(self));
        boost::system::error_code ignored;
        co_await socket.async_close(websocket::close_reason(code, reason),
                                    asio::redirect_error(asio::use_awaitable, ignored));
    }

    asio::awaitable<void> cut_off(Self /* is kept */) {
        boost::system::error_code ignored;
        farewell.expires_after(farewell_limit);
        co_await farewell.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        lowest().close();
        ended = true;
        changed.cancel();
    }

    // A client that neither sends a message nor answers a ping is given up, also one that takes
    // forever over a message.
    asio::awaitable<void> ask_for_life(Self self) {
        auto pause = std::chrono::duration_cast<Clock::duration>(server.settings.keepalive);
        bool is_asked = false;
        while (!ended) {
            Clock::time_point asked = Clock::now();
            boost::system::error_code ignored;
            alive.expires_after(pause);
            co_await alive.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
            if (ended) {
                co_return;
            }
            if (is_asked && heard < asked && !is_full) {
                co_await hang_up(self, websocket::close_code::internal_error,
                                 "keepalive ping timeout");
                co_return;
            }
            is_asked = true;
            server.start(ping(self));
        }
    }

    asio::awaitable<void> ping(Self /* is kept */) {
        if (is_pinging) {
            co_return;
        }
        is_pinging = true;
        boost::system::error_code ignored;
        co_await socket.async_ping({}, asio::redirect_error(asio::use_awaitable, ignored));
        is_pinging = false;
    }

    Server& server;
    Model& model;
    websocket::stream<Stream, false> socket;
    Session session;
    std::list<Client*>::iterator place;
    asio::steady_timer changed, alive, farewell;
    std::shared_ptr<Received> inbox;
    Clock::time_point heard = Clock::now();
    bool is_full = false; // no message is read since others wait
    bool ended = false, has_left = false, is_closing = false, is_pinging = false;
};

} // namespace actquant::server
