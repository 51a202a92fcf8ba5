<?php
/**
 * Signs and verifies what the site and the server send each other.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * Signatures: `t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">`.
 */
final class Buddyline_Signature {

	/**
	 * How far the clocks may differ, in seconds.
	 */
	const WINDOW = 300;

	/**
	 * How many signatures a header may carry.
	 */
	const MAX_SIGNATURES = 8;

	/**
	 * Derives the key for one purpose, so that no signature is valid in another place.
	 *
	 * @param string $secret  Shared secret.
	 * @param string $purpose "events", "tickets" or "requests".
	 * @return string 32 bytes.
	 */
	public static function derive_key( $secret, $purpose ) {
		return hash_hmac( 'sha256', 'buddyline ' . $purpose . ' v1', trim( $secret ), true );
	}

	/**
	 * The header for a body.
	 *
	 * @param string[] $keys Derived keys; several while a secret is rolled.
	 * @param string   $body Body.
	 * @param int      $time Unix time.
	 * @return string
	 */
	public static function sign( $keys, $body, $time ) {
		$header = 't=' . $time;
		foreach ( $keys as $key ) {
			$header .= ',v1=' . hash_hmac( 'sha256', $time . '.' . $body, $key );
		}
		return $header;
	}

	/**
	 * Verifies a header. Every key is compared with every signature in constant time.
	 *
	 * @param string[]    $keys   Derived keys.
	 * @param string|null $header Header.
	 * @param string      $body   Body.
	 * @param int         $now    Unix time.
	 * @return array{reason: string, key: int} An empty reason if the signature is valid, else
	 *                                         "malformed", "secret" or "clock"; and the number of the
	 *                                         key that matched, or -1.
	 */
	public static function verify( $keys, $header, $body, $now ) {
		$parsed = self::parse( $header );
		if ( null === $parsed ) {
			return array(
				'reason' => 'malformed',
				'key'    => -1,
			);
		}
		$matched = -1;
		foreach ( array_values( $keys ) as $number => $key ) {
			$expected = hash_hmac( 'sha256', $parsed['time'] . '.' . $body, $key );
			foreach ( $parsed['signatures'] as $signature ) {
				if ( hash_equals( $expected, $signature ) && $matched < 0 ) {
					$matched = $number;
				}
			}
		}
		$reason = '';
		if ( $matched < 0 ) {
			$reason = 'secret';
		} elseif ( abs( $now - (int) $parsed['time'] ) > self::WINDOW ) {
			$reason = 'clock';
		}
		return array(
			'reason' => $reason,
			'key'    => $matched,
		);
	}

	/**
	 * Whether a text can be the id of a body.
	 *
	 * @param mixed $id Id.
	 * @return bool
	 */
	public static function is_id( $id ) {
		return is_string( $id ) && 1 === preg_match( '/^[A-Za-z0-9_-]{16,64}$/D', $id );
	}

	/**
	 * A new id for a body.
	 *
	 * @return string
	 */
	public static function new_id() {
		return bin2hex( random_bytes( 16 ) );
	}

	/**
	 * Encodes bytes as base64url without padding.
	 *
	 * @param string $bytes Bytes.
	 * @return string
	 */
	public static function base64url( $bytes ) {
		// phpcs:ignore WordPress.PHP.DiscouragedPHPFunctions.obfuscation_base64_encode -- RFC 7515 demands it.
		return rtrim( strtr( base64_encode( $bytes ), '+/', '-_' ), '=' );
	}

	/**
	 * Splits a header into the time and the signatures. Unknown parts are ignored.
	 *
	 * @param string|null $header Header.
	 * @return array{time: string, signatures: string[]}|null
	 */
	private static function parse( $header ) {
		if ( ! is_string( $header ) || strlen( $header ) > 1024 ) {
			return null;
		}
		$time       = null;
		$signatures = array();
		foreach ( explode( ',', $header ) as $part ) {
			$pair = explode( '=', trim( $part ), 2 );
			if ( 2 !== count( $pair ) ) {
				continue;
			}
			if ( 't' === $pair[0] ) {
				if ( null !== $time || 1 !== preg_match( '/^[0-9]{1,12}$/D', $pair[1] ) ) {
					return null;
				}
				$time = $pair[1];
			} elseif ( 'v1' === $pair[0] && 1 === preg_match( '/^[0-9a-f]{64}$/D', $pair[1] ) ) {
				$signatures[] = $pair[1];
			}
		}
		if ( null === $time || ! $signatures || count( $signatures ) > self::MAX_SIGNATURES ) {
			return null;
		}
		return array(
			'time'       => $time,
			'signatures' => $signatures,
		);
	}
}
