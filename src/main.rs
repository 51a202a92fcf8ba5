//! The `buddyline` binary: runs the server or one of its tools, and returns an exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use buddyline::cli::{self, Cli, Command, DoctorOptions, HealthOptions};
use buddyline::config::files::Secrets;
use buddyline::config::site_password::CONFLICT_REMEDY;
use buddyline::config::{Config, LogFormat, Trust};
use buddyline::doctor::finding::Finding;
use buddyline::doctor::health::HealthTarget;
use buddyline::doctor::{self, ExamineOptions, report};
use buddyline::journal;
use buddyline::load;
use buddyline::server::{ConfigSource, InheritedSocket, Server};
use listenfd::ListenFd;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // Through the journal, which neither blocks on its reader nor panics without one.
        log::error!("{}", panic_line(panic));
        log::logger().flush();
    }));
    // While there is only one thread: this removes variables from the environment.
    let mut inherited = ListenFd::from_env();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::read(&arguments) {
        Ok(cli) => cli,
        Err(fault) if fault.use_stderr() => {
            // The message repeats the value, which may be a URL with a password.
            let text = redact_passwords(&fault.render().to_string());
            journal::print_error(LogFormat::Auto, &text);
            return ExitCode::from(2);
        }
        Err(help) => help.exit(),
    };
    match cli.command {
        None => serve(&cli.config, arguments, &mut inherited),
        Some(Command::CheckConfig { config }) => check_config(&config),
        Some(Command::Bench { options }) => bench(&options),
        Some(Command::Doctor { config, options }) => run_doctor(&config, options),
        Some(Command::Health { config, options }) => check_health(&config, &options),
    }
}

/// Runs the server until a signal stops it.
fn serve(config: &Config, arguments: Vec<OsString>, inherited: &mut ListenFd) -> ExitCode {
    exit_if_invalid(config);
    if let Err(fault) = journal::start(config.log_level, config.log_format) {
        journal::print_error(
            config.log_format,
            &format!("buddyline: cannot start the log: {fault}\n"),
        );
        return ExitCode::FAILURE;
    }
    let ended = run(config, arguments, inherited);
    log::logger().flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // Printed at any log level: nothing else says why the server is not running.
            journal::print_error(config.log_format, &format!("buddyline: {fault}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Exits with code 2 if the settings contradict each other, as for any other invalid value.
fn exit_if_invalid(config: &Config) {
    if let Err(fault) = config.check() {
        journal::print_error(config.log_format, &format!("error: {fault}\n"));
        std::process::exit(2);
    }
}

/// Checks whether the server would start with these settings, and prints a report.
fn check_config(config: &Config) -> ExitCode {
    exit_if_invalid(config);
    match doctor::check_machine(config) {
        Ok(findings) => {
            let good = report::has_no_failures(&findings);
            let verdict = if good { valid(config, &findings) } else { CANNOT_START.to_owned() };
            let lines = report::format_text(&findings, io::stdout().is_terminal());
            print_report(&format!("{lines}{verdict}\n"), good)
        }
        Err(fault) => report_bad_setting(&fault),
    }
}

const CANNOT_START: &str = "the server cannot start";

/// The verdict on settings with which the server can start.
fn valid(config: &Config, findings: &[Finding]) -> String {
    let mut text = match report::Summary::from_findings(findings).warning {
        0 => "the settings are valid".to_owned(),
        1 => "the settings are valid, with 1 warning".to_owned(),
        more => format!("the settings are valid, with {more} warnings"),
    };
    if config.buddyboss_url.is_some() {
        text.push_str("; the site was not contacted");
    }
    text
}

/// Runs a load test and prints its report. The exit code is 1 if the report is not good.
fn bench(options: &load::Options) -> ExitCode {
    let report = match load::run(options) {
        Ok(report) => report,
        Err(fault) => {
            let text = redact_passwords(&format!("buddyline bench: {fault}\n"));
            journal::print_error(LogFormat::Text, &text);
            return ExitCode::from(2);
        }
    };
    let text = match options.json {
        true => serde_json::to_string(&report).map(|text| text + "\n"),
        false => Ok(report.to_string()),
    };
    text.map_or(ExitCode::FAILURE, |text| print_report(&text, report.is_good()))
}

/// Runs all checks of the doctor and prints its findings.
fn run_doctor(config: &Config, options: DoctorOptions) -> ExitCode {
    exit_if_invalid(config);
    let credential = match doctor::token::read(options.token_file.as_deref()) {
        Ok(credential) => credential,
        Err(fault) => return report_bad_setting(&fault),
    };
    let DoctorOptions { public_url, within, json, .. } = options;
    match doctor::examine(config, &ExamineOptions { credential, public_url, within }) {
        Ok(findings) => {
            let text = match json {
                true => report::format_json(&findings),
                false => report::format_text(&findings, io::stdout().is_terminal()),
            };
            print_report(&text, report::has_no_failures(&findings))
        }
        Err(fault) => report_bad_setting(&fault),
    }
}

/// Asks a server whether it works, and prints its answer in one line. Reads no secrets, so that
/// another user than the server's can run it.
fn check_health(config: &Config, options: &HealthOptions) -> ExitCode {
    let path = if options.ready { "/readyz" } else { "/healthz" };
    let target = match &options.url {
        Some(url) => Ok(HealthTarget::from_url(url, path)),
        None => HealthTarget::from_config(config, path),
    };
    let target = match target {
        Ok(target) => target,
        Err(fault) => return report_bad_setting(&fault),
    };
    match target.ask(options.within) {
        Ok((200, line)) => print_report(&format!("ok: {target}: {line}\n"), true),
        Ok((status, line)) => print_report(&format!("failed: {target}: {status} {line}\n"), false),
        Err(reason) => print_report(&format!("failed: {target}: {reason}\n"), false),
    }
}

/// Prints a report. The exit code is a failure as well if the reader closes the pipe early.
fn print_report(text: &str, good: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) if good => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn report_bad_setting(fault: &str) -> ExitCode {
    journal::print_error(LogFormat::Text, &format!("error: {fault}\n"));
    ExitCode::from(2)
}

/// Formats a panic for the log: its location, and its message if that is a literal. A formatted
/// message could contain a token or user content.
fn panic_line(panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload().downcast_ref::<&'static str>().unwrap_or(&"…");
    match panic.location() {
        Some(at) => format!("panic at {at}: {message}"),
        None => format!("panic: {message}"),
    }
}

fn run(config: &Config, arguments: Vec<OsString>, inherited: &mut ListenFd) -> Result<(), String> {
    let to_text = |fault: io::Error| fault.to_string();
    let sockets = inherited_sockets(inherited).map_err(to_text)?;
    let mut server = Server::start(config, sockets).map_err(to_text)?;
    server.install_signal_handlers().map_err(to_text)?;
    server.set_config_source(Box::new(CommandLine { arguments }));
    let has_password = config.site_password_with_warnings()?.is_some();
    log_banner(config, &server, has_password);
    server.run().map_err(to_text)
}

/// Takes the listening sockets that the service manager has passed to this process.
fn inherited_sockets(inherited: &mut ListenFd) -> io::Result<Vec<InheritedSocket>> {
    let mut all = Vec::new();
    for number in 0..inherited.len() {
        // A socket of the wrong kind stays where it is.
        let socket = match inherited.take_tcp_listener(number) {
            Ok(socket) => socket.map(InheritedSocket::Tcp),
            Err(_) => inherited
                .take_unix_listener(number)
                .map_err(|_| {
                    io::Error::other(format!(
                        "socket {} of the service manager (LISTEN_FDS) is neither a TCP nor a Unix \
                         stream socket: expected ListenStream=",
                        number + 1
                    ))
                })?
                .map(InheritedSocket::Unix),
        };
        all.extend(socket);
    }
    if !all.is_empty() {
        log::info!("using {} sockets from the service manager; --listen is ignored", all.len());
    }
    Ok(all)
}

/// Reads the settings again from the arguments and the file that they name.
struct CommandLine {
    arguments: Vec<OsString>,
}

impl ConfigSource for CommandLine {
    fn read(&mut self) -> Result<(Config, Secrets), String> {
        let to_text = |fault: clap::Error| redact_passwords(&cli::without_advice(&fault));
        let cli = Cli::read(&self.arguments).map_err(to_text)?;
        let secrets = cli.config.load_secrets()?;
        cli.config.check_combinations()?;
        Ok((cli.config, secrets))
    }

    fn on_applied(&mut self, config: &Config) {
        journal::set_level(config.log_level);
    }
}

/// Replaces the text between `://`, `turn:` or `turns:` and `@` in each URL.
fn redact_passwords(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    let begins = |text: &str| {
        let ends = ["://", "turn:", "turns:"].map(|word| Some(text.find(word)? + word.len()));
        ends.into_iter().flatten().min()
    };
    while let Some(at) = begins(rest) {
        let (before, after) = rest.split_at(at);
        clean.push_str(before);
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                clean.push('…');
                &after[at..]
            }
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

fn log_banner(config: &Config, server: &Server, has_password: bool) {
    log::info!("buddyline {}", env!("CARGO_PKG_VERSION"));
    match &config.buddyboss_url {
        Some(url) => {
            log::info!("messages are stored by the BuddyBoss site {url}");
            match (config.trust_mode(), server.verifier()) {
                (Trust::Open, _) => {
                    log::warn!("--trust open: the server believes any userId that a client claims")
                }
                (Trust::Verified, Some(verifier)) => log::info!(
                    "--trust verified: tokens are checked with the site's {} (issuer {}), \
                     Application Passwords by asking the site",
                    verifier.key_names(),
                    verifier.issuers()
                ),
                (Trust::Verified, None) => log::info!(
                    "--trust verified: tokens are checked by asking the site, once per token; \
                     --jwt-secret-file or --jwt-key-file avoids these requests"
                ),
            }
            if let (true, Some(conflict)) = (has_password, config.site_password_conflict()) {
                log::warn!("{conflict}. {CONFLICT_REMEDY}");
            }
        }
        None => log::info!(
            "no BuddyBoss site is set: an embedded stand-in keeps messages in memory until the \
             server stops, and every userId is believed"
        ),
    }
    let (stun, turn) = (config.ice.stun_url.len(), config.ice.turn_url.len());
    if stun + turn > 0 {
        log::info!("ICE servers for calls: {stun} STUN and {turn} TURN addresses");
    }
    if config.limits().no_limits {
        log::warn!("--no-limits: any client can use up all resources of this machine");
    }
    let [ws, http] = if server.has_tls() { ["wss", "https"] } else { ["ws", "http"] };
    for address in server.addresses() {
        log::info!("listening on {ws}://{address}");
    }
    for path in server.socket_paths() {
        log::info!("listening on unix:{}", path.display());
    }
    if config.is_try_page_enabled() {
        if let Some(address) = server.addresses().first() {
            // A browser cannot open the unspecified address.
            let written = config.listen.iter().find(|listen| listen.unix_path().is_none());
            let host = match written {
                Some(listen) if !address.ip().is_unspecified() => listen.host(),
                _ => "localhost",
            };
            let port = address.port();
            log::info!("try it: open {http}://{host}:{port}/ in two browser tabs");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, set_hook, take_hook};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn panic_message_has_location_but_no_payload() {
        let (sender, lines) = channel();
        set_hook(Box::new(move |panic| sender.send(panic_line(panic)).unwrap()));
        let token = String::from("\u{e4} eyJ0.s3cret");
        let refused = || Err::<(), &str>(&token);
        let panics: [&(dyn Fn() + std::panic::RefUnwindSafe); 4] = [
            &|| panic!("no such token: {token}"),
            // The messages of both contain the whole text that cannot be sliced.
            &|| drop(token[1..].to_owned()),
            &|| drop(token[..99].to_owned()),
            &|| refused().expect("a good token"),
        ];
        for panic in panics {
            assert!(catch_unwind(panic).is_err());
            let line = lines.try_recv().unwrap();
            assert!(line.contains("main.rs:") && !line.contains("s3cret"), "{line}");
        }
        assert!(catch_unwind(|| panic!("a literal message")).is_err());
        let line = lines.try_recv().unwrap();
        assert!(line.ends_with(": a literal message"), "{line}");
        drop(take_hook());
    }
}
