//! The settings of Unix sockets: mode and owner of their files.

use std::fmt;

use nix::unistd::{Group, User};

/// The mode and the owner that a Unix socket gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// The permissions.
    pub mode: SocketMode,
    /// The owner; `None` for the user and group of the server.
    pub owner: Option<SocketOwner>,
}

/// The permissions of a Unix socket, such as 0660.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl SocketMode {
    /// Parses three or four octal digits.
    ///
    /// # Errors
    ///
    /// A message that says what is expected.
    pub fn parse(text: &str) -> Result<SocketMode, String> {
        let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
        let is_octal = digits.len() == 3 && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if is_octal => Ok(SocketMode(mode)),
            _ => Err("expected three octal digits, such as 660 or 0666".to_owned()),
        }
    }
}

/// The owner of a Unix socket: a user, a group, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    user: Option<String>,
    group: Option<String>,
}

impl SocketOwner {
    /// Parses `USER`, `USER:GROUP` or `:GROUP`, each a name or a number. Does not look them up.
    ///
    /// # Errors
    ///
    /// A message that says what is expected.
    pub fn parse(text: &str) -> Result<SocketOwner, String> {
        let expected = "expected USER, USER:GROUP or :GROUP, such as :www-data";
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let is_name = |name: &str| {
            name.len() <= 64 && name.bytes().all(|b| b.is_ascii_graphic() && !b":/".contains(&b))
        };
        if (user.is_empty() && group.is_empty()) || !is_name(user) || !is_name(group) {
            return Err(expected.to_owned());
        }
        let some = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Ok(SocketOwner { user: some(user), group: some(group) })
    }

    /// Returns the numbers of the user and of the group, from the system's user database.
    ///
    /// # Errors
    ///
    /// There is no such user or group.
    pub fn look_up(&self) -> Result<(Option<u32>, Option<u32>), String> {
        let user = self.user.as_deref().map(|name| {
            let found = || User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
            name.parse().ok().or_else(found).ok_or_else(|| format!("there is no user {name}"))
        });
        let group = self.group.as_deref().map(|name| {
            let found = || Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
            name.parse().ok().or_else(found).ok_or_else(|| format!("there is no group {name}"))
        });
        Ok((user.transpose()?, group.transpose()?))
    }
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_mode_is_three_octal_digits() {
        for (text, mode) in [("660", 0o660), ("0660", 0o660), ("000", 0), ("0777", 0o777)] {
            assert_eq!(SocketMode::parse(text), Ok(SocketMode(mode)), "{text}");
        }
        for text in ["", "66", "6600", "1777", "0o660", "680", "-66", "+66", "rw-rw----", "00660"] {
            assert!(SocketMode::parse(text).unwrap_err().contains("octal"), "{text}");
        }
    }

    #[test]
    fn socket_owner_is_a_user_a_group_or_both() {
        for (text, ids) in [
            ("root", (Some(0), None)),
            ("root:root", (Some(0), Some(0))),
            (":root", (None, Some(0))),
            ("1000:33", (Some(1000), Some(33))),
            ("0:", (Some(0), None)),
        ] {
            assert_eq!(SocketOwner::parse(text).unwrap().look_up(), Ok(ids), "{text}");
        }
        for text in ["", ":", "a:b:c", "a b", "/etc", "ü"] {
            assert!(SocketOwner::parse(text).unwrap_err().contains("USER:GROUP"), "{text}");
        }
        for (text, name) in [("no-such-user-here", "user"), (":no-such-group-here", "group")] {
            let fault = SocketOwner::parse(text).unwrap().look_up().unwrap_err();
            assert!(fault.contains(name) && fault.contains("no-such-"), "{fault}");
        }
    }
}
