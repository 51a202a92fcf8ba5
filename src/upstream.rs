//! The site, seen from the loop.
