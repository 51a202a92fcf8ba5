//! The proxy through which the server reaches the site.
//!
//! It is the one of the setting `--site-proxy`, or of the variables `HTTPS_PROXY`, `HTTP_PROXY` and
//! `NO_PROXY`, in capitals or not, as for curl.

use std::env;
use std::fmt;
use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;
use zeroize::{Zeroize, Zeroizing};

use super::Config;
use super::site_url::SiteUrl;

const FLAG: &str = "--site-proxy";
const VARIABLE: &str = "BUDDYLINE_SITE_PROXY";
const EXPECTED: &str = "expected http://HOST:PORT, http://USER:PASSWORD@HOST:PORT or off";

/// The text of the setting, which may contain a password: it is parsed when all settings are known,
/// because an error of clap would print it.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyText(Zeroizing<String>);

impl ProxyText {
    /// Takes any text.
    pub(super) fn new(text: &str) -> Result<ProxyText, String> {
        Ok(ProxyText(Zeroizing::new(text.trim().to_owned())))
    }
}

impl fmt::Debug for ProxyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyText(…)")
    }
}

/// The proxy for all requests to the site. `Display` and `Debug` do not print its password.
#[derive(Clone, PartialEq, Eq)]
pub struct SiteProxy {
    /// With user name and password, if it has some.
    url: Zeroizing<String>,
    /// Without brackets.
    host: String,
    port: u16,
    has_password: bool,
    /// The setting or the variable that names it.
    source: &'static str,
}

/// How the site is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteRoute {
    /// No proxy is set.
    Direct,
    /// A variable names a proxy, but `NO_PROXY` excludes the site; the variable.
    Excluded(&'static str),
    /// Through this proxy.
    Proxy(SiteProxy),
}

impl SiteProxy {
    /// Parses a URL, with or without `http://`.
    ///
    /// # Errors
    ///
    /// A message that does not repeat the text.
    fn parse(text: &str, source: &'static str) -> Result<SiteProxy, String> {
        let refuse = |why: &str| Err(format!("{source}: {why}: {EXPECTED}"));
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return refuse("only proxies with http:// are supported"),
            None => text,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return refuse("it has a path");
        }
        let url = Zeroizing::new(format!("http://{authority}"));
        let Ok(uri) = url.parse::<Uri>() else { return refuse("it is not the URL of a proxy") };
        let Some(authority) = uri.authority().filter(|it| !it.host().is_empty()) else {
            return refuse("it has no host");
        };
        let address = authority.as_str().rsplit('@').next().unwrap_or_default();
        let port = match address.strip_prefix(authority.host()) {
            Some("") => 80,
            _ => match authority.port_u16() {
                Some(port) if port > 0 => port,
                _ => return refuse("its port is not a number from 1 to 65535"),
            },
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
        if user.is_some_and(|user| !decodes_to_text(user)) {
            return refuse("its password is not UTF-8 with percent encoding");
        }
        let has_password = user.is_some();
        Ok(SiteProxy { url, host, port, has_password, source })
    }

    /// The URL, with its password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The setting or the variable that names it.
    pub fn source(&self) -> &'static str {
        self.source
    }
}

/// Whether the bytes of a text with percent encoding are UTF-8.
fn decodes_to_text(text: &str) -> bool {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let code = digits.and_then(|it| std::str::from_utf8(it).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => (rest, _) = (&after[2..], bytes.push(byte)),
            None => (rest, _) = (after, bytes.push(*first)),
        }
    }
    let decodes = std::str::from_utf8(&bytes).is_ok();
    bytes.zeroize();
    decodes
}

/// Host and port, and the setting or variable that names the proxy.
impl fmt::Display for SiteProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SiteProxy { host, port, source, .. } = self;
        match host.contains(':') {
            true => write!(f, "[{host}]:{port} ({source})"),
            false => write!(f, "{host}:{port} ({source})"),
        }
    }
}

impl fmt::Debug for SiteProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteProxy({self})")
    }
}

impl Config {
    /// Returns how the site is reached.
    ///
    /// # Errors
    ///
    /// A message that names the setting or the variable, without its value.
    pub fn site_route(&self) -> Result<SiteRoute, String> {
        let setting = self.site_proxy.as_ref().map(|text| &**text.0);
        let route = find_route(self.buddyboss_url.as_ref(), setting, |name| env::var(name).ok())?;
        if let (SiteRoute::Proxy(SiteProxy { has_password: true, source: FLAG, .. }), Some(text)) =
            (&route, setting)
        {
            if self.variable(VARIABLE)?.is_none_or(|it| it.to_str().map(str::trim) != Some(text)) {
                return Err(format!(
                    "{FLAG} has a password, and every process on this machine can read arguments: \
                     set {VARIABLE} instead, in the environment or in the file of --env-file"
                ));
            }
        }
        Ok(route)
    }
}

fn find_route(
    site: Option<&SiteUrl>,
    setting: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<SiteRoute, String> {
    match setting {
        Some("off") => return Ok(SiteRoute::Direct),
        Some(text) => return SiteProxy::parse(text, FLAG).map(SiteRoute::Proxy),
        None => {}
    }
    let Some(uri) = site.and_then(|site| site.as_str().parse::<Uri>().ok()) else {
        return Ok(SiteRoute::Direct);
    };
    let is_secure = uri.scheme_str() == Some("https");
    let names =
        if is_secure { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
    let set = |name: &str| variable(name).map(Zeroizing::new).filter(|it| !it.trim().is_empty());
    let found = names.into_iter().find_map(|name| Some((name, set(name)?)));
    let Some((name, text)) = found else { return Ok(SiteRoute::Direct) };
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let excluded = ["no_proxy", "NO_PROXY"].into_iter().find_map(set);
    if excluded.is_some_and(|list| is_excluded(&list, uri.host().unwrap_or_default(), port)) {
        return Ok(SiteRoute::Excluded(name));
    }
    SiteProxy::parse(text.trim(), name).map(SiteRoute::Proxy)
}

/// Whether an entry of `NO_PROXY` names this host: `*`, a domain with its subdomains, with or
/// without a dot or `*.` before it, an IP address, or a network; with or without a port.
fn is_excluded(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let entries = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|it| !it.is_empty());
    entries.map(str::to_ascii_lowercase).any(|entry| {
        let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (name, wanted) = match entry.rsplit_once(':') {
            // Not the end of an IPv6 address.
            Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => {
                (name, Some(port))
            }
            _ => (&*entry, None),
        };
        if wanted.is_some_and(|wanted| wanted.parse() != Ok(port)) {
            return false;
        }
        let name = name.trim_matches(['[', ']']);
        if name == "*" {
            return true;
        }
        if let Some(address) = address {
            return match name.parse::<IpNet>() {
                Ok(network) => network.contains(&address),
                Err(_) => name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == address),
            };
        }
        let domain = name.strip_prefix('*').unwrap_or(name);
        let domain = domain.strip_prefix('.').unwrap_or(domain).trim_end_matches('.');
        !domain.is_empty()
            && host
                .strip_suffix(domain)
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(
        site: &str,
        setting: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<SiteRoute, String> {
        let site = SiteUrl::parse(site).unwrap();
        find_route(Some(&site), setting, |name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn proxy(route: Result<SiteRoute, String>) -> String {
        match route.unwrap() {
            SiteRoute::Proxy(proxy) => proxy.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn variable_for_the_scheme_of_the_site_counts() {
        let both = [("HTTPS_PROXY", "http://one:3128"), ("HTTP_PROXY", "two:8080")];
        assert_eq!(proxy(route("https://a.example", None, &both)), "one:3128 (HTTPS_PROXY)");
        assert_eq!(proxy(route("http://a.example", None, &both)), "two:8080 (HTTP_PROXY)");
        let small = [("https_proxy", "http://small:1/"), ("HTTPS_PROXY", "http://large:2")];
        assert_eq!(proxy(route("https://a.example", None, &small)), "small:1 (https_proxy)");
        let empty = [("https_proxy", " "), ("HTTPS_PROXY", ""), ("HTTP_PROXY", "http://x:1")];
        assert_eq!(proxy(route("https://a.example", None, &empty)), "Direct");
        assert_eq!(find_route(None, None, |_| Some("http://x".to_owned())), Ok(SiteRoute::Direct));
        let fault = route("https://a.example", None, &[("HTTPS_PROXY", "socks5://s3cret@x")]);
        let fault = fault.unwrap_err();
        assert!(fault.starts_with("HTTPS_PROXY: only proxies") && !fault.contains("s3cret"));
    }

    #[test]
    fn setting_takes_precedence_over_the_variables() {
        let variables = [("HTTPS_PROXY", "http://one:3128"), ("NO_PROXY", "*")];
        let route = |setting| route("https://a.example", Some(setting), &variables);
        assert_eq!(route("off"), Ok(SiteRoute::Direct));
        assert_eq!(proxy(route("http://two:8080")), "two:8080 (--site-proxy)");
        assert_eq!(proxy(route("http://[::1]:8080")), "[::1]:8080 (--site-proxy)");
        assert_eq!(proxy(route("proxy.example")), "proxy.example:80 (--site-proxy)");
        let Ok(SiteRoute::Proxy(secret)) = route("http://us%40er:s3%3Acret@two:8080/") else {
            panic!("no proxy");
        };
        assert_eq!(secret.url(), "http://us%40er:s3%3Acret@two:8080");
        assert_eq!((secret.host(), secret.port()), ("two", 8080));
        assert!(!format!("{secret} {secret:?}").contains("cret"));
        assert!(!format!("{:?}", ProxyText::new("http://u:s3cret@two:1")).contains("s3cret"));
    }

    #[test]
    fn invalid_proxy_is_refused_without_echo() {
        for text in [
            "",
            "https://s3cret@proxy:1",
            "socks5://s3cret:1",
            "http://",
            "http://u:s3cret@",
            "http://u:s3cret@:3128",
            "http://u:s3cret@proxy:0",
            "http://u:s3cret@proxy:99999",
            "http://u:s3cret@proxy:3128/path",
            "http://u:s3cret@proxy?x",
            "http://pro xy:3128 s3cret",
            "http://u:s3cret%ff@proxy:3128",
        ] {
            let fault = route("https://a.example", Some(text), &[]).unwrap_err();
            assert!(fault.starts_with("--site-proxy: ") && fault.contains("expected"), "{fault}");
            assert!(!fault.contains("s3cret"), "{fault}");
        }
    }

    #[test]
    fn excluded_hosts_match_as_names_addresses_and_networks() {
        for (list, host, excluded) in [
            ("", "a.example", false),
            (" , ,", "a.example", false),
            ("*", "a.example", true),
            ("a.example", "a.example", true),
            ("A.Example", "a.EXAMPLE.", true),
            ("example", "a.example", true),
            (".example", "a.example", true),
            (".a.example", "a.example", true),
            ("*.example", "a.example", true),
            ("ample", "a.example", false),
            ("b.example", "a.example", false),
            ("a.example.org", "a.example", false),
            ("x, a.example y", "a.example", true),
            ("a.example:443", "a.example", true),
            ("a.example:8443", "a.example", false),
            ("a.example:99999999", "a.example", false),
            ("localhost", "localhost", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1:443", "127.0.0.1", true),
            ("127.0.0.1:80", "127.0.0.1", false),
            ("127.0.0.0/8", "127.0.0.1", true),
            ("10.0.0.0/8", "127.0.0.1", false),
            ("0.0.1", "127.0.0.1", false),
            ("::1", "[::1]", true),
            ("[::1]", "[::1]", true),
            ("[::1]:443", "[::1]", true),
            ("[::1]:80", "[::1]", false),
            ("fd00::/8", "[fd00::1]", true),
            ("::2", "[::1]", false),
            (".", "a.example", false),
            ("*.", "a.example", false),
            (":443", "a.example", false),
        ] {
            assert_eq!(is_excluded(list, host, 443), excluded, "{list:?} {host}");
        }
    }
}
