//! Looks up request headers, and the entries of comma-separated ones.

/// The value of a header that occurs exactly once, if it is UTF-8.
pub(super) fn single_header<'a>(
    request: &httparse::Request<'_, 'a>,
    name: &str,
) -> Option<&'a str> {
    let mut found = header_values(request, name);
    let value = found.next().filter(|_| found.next().is_none())?;
    std::str::from_utf8(value).ok().map(str::trim)
}

/// The values of all header lines with this name.
pub(super) fn header_values<'a>(
    request: &httparse::Request<'_, 'a>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    let named = request.headers.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
    named.map(|line| line.value)
}

/// Whether there is a header line with this name.
pub(super) fn has_header(request: &httparse::Request<'_, '_>, name: &str) -> bool {
    header_values(request, name).next().is_some()
}

/// The entries of a comma-separated header, from the last to the first. Several lines form one list
/// (RFC 9110 section 5.3).
pub(super) fn header_entries_from_right<'a>(
    request: &httparse::Request<'_, 'a>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    let lines = request.headers.iter().rev();
    let values = lines.filter(move |line| line.name.eq_ignore_ascii_case(name));
    values.flat_map(|line| line.value.rsplit(|byte| *byte == b','))
}

/// The entries of a comma-separated header, which may span several lines.
pub(super) fn header_tokens<'a>(
    request: &httparse::Request<'_, 'a>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    let parts = header_values(request, name).flat_map(|line| line.split(|byte| *byte == b','));
    parts.map(<[u8]>::trim_ascii)
}

/// Whether a comma-separated header, which may span several lines, has this entry in any case.
pub(super) fn has_header_token(
    request: &httparse::Request<'_, '_>,
    name: &str,
    word: &str,
) -> bool {
    header_tokens(request, name).any(|entry| entry.eq_ignore_ascii_case(word.as_bytes()))
}
