#pragma once

#include "model.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <list>

namespace actquant::server {

// One connection of a client, as the server sees it.
class Client {
  public:
    virtual ~Client() = default;
    // Says good-bye, and hangs up on who does not answer that.
    virtual void end() = 0;
};

// openpi's websocket protocol, and three pages over HTTP on the same port.
class Server {
  public:
    // Opens all files and listens. Throws std::runtime_error for what cannot be served.
    explicit Server(const Settings& settings);

    // The one that is listened on.
    uint16_t port() const;
    bool has_tls() const { return tls.has_value(); }

    // Serves until SIGINT or SIGTERM: what is being computed is answered, then all connections are
    // closed.
    void run();

    // What a page answers.
    struct Page {
        unsigned status;
        std::string text;
    };
    // The answer of a page, or to a handshake that is refused; nothing lets a client in, for the
    // model of the path.
    template <typename Request> std::optional<Page> page(const Request& request) const;
    Model* model(std::string_view path) const;

    const Settings& settings;
    Metrics metrics;

  private:
    template <typename Stream> friend class Connection;
    struct Stranger;

    void listen();
    boost::asio::awaitable<void> accept(boost::asio::ip::tcp::acceptor& acceptor);
    boost::asio::awaitable<void> meet(boost::asio::ip::tcp::socket socket);
    template <typename Stream> boost::asio::awaitable<void> meet(Stream stream);
    boost::asio::awaitable<void> watch_files();
    boost::asio::awaitable<void> drain();
    void start(boost::asio::awaitable<void> work);

    std::optional<boost::asio::ssl::context> tls;
    std::vector<std::unique_ptr<Model>> models;
    std::list<Client*> clients;
    size_t sockets = 0; // of clients and of who is not one yet
    size_t in_work = 0; // messages that are being answered
    bool stopping = false;
    // Below what connections use, which end with it.
    boost::asio::io_context io{1};
    std::list<boost::asio::ip::tcp::acceptor> acceptors;
};

} // namespace actquant::server
