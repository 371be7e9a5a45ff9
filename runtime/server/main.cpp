// actquant-serve: policies over websockets, for a robot's computer without Python.
#include "server.h"

#include "arguments.h"

#include <cstdio>

using namespace actquant;

int main(int argc, char** argv) {
    return tools::run_main(argc, argv, "actquant-serve", server::usage, [&] {
        server::Settings settings = server::settings_of(argc, argv);
        server::Server server(settings);
        for (const auto& [name, path] : settings.models) {
            std::printf("%s: %s://%s:%d/%s\n", name.c_str(), server.has_tls() ? "wss" : "ws",
                        settings.host.c_str(), server.port(), name.c_str());
        }
        std::fflush(stdout);
        server.run();
        return 0;
    });
}
