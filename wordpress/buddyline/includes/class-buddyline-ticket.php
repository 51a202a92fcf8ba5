<?php
/**
 * Makes tickets: short-lived proofs of who a member is, and of the member's threads.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * Tickets are JSON Web Tokens (HS256) that name the user, the threads and the blocks.
 */
final class Buddyline_Ticket {

	/**
	 * How long a ticket is valid, in seconds.
	 */
	const LIFETIME = 300;

	/**
	 * How many threads and blocked users a ticket names at most.
	 */
	const MAX_THREADS = 500;
	const MAX_BLOCKED = 1000;

	/**
	 * The claims of a ticket for a user.
	 *
	 * @param int    $user_id User.
	 * @param string $sid     Session.
	 * @param int    $now     Unix time.
	 * @return array
	 */
	public static function claims( $user_id, $sid, $now ) {
		$threads = Buddyline_Site::threads( $user_id, self::MAX_THREADS + 1 );
		$blocked = Buddyline_Site::blocked( $user_id, self::MAX_BLOCKED + 1 );
		$more    = count( $threads ) > self::MAX_THREADS || count( $blocked ) > self::MAX_BLOCKED;
		return array(
			'iss'     => Buddyline_Options::home(),
			'aud'     => 'buddyline',
			'sub'     => (string) $user_id,
			'iat'     => $now,
			'exp'     => $now + self::LIFETIME,
			'jti'     => Buddyline_Signature::new_id(),
			'sid'     => $sid,
			'threads' => array_slice( $threads, 0, self::MAX_THREADS ),
			'blocked' => array_slice( $blocked, 0, self::MAX_BLOCKED ),
			'more'    => $more,
		);
	}

	/**
	 * Encodes and signs claims.
	 *
	 * @param array  $claims Claims.
	 * @param string $secret Shared secret.
	 * @return string
	 */
	public static function encode( $claims, $secret ) {
		$header = array(
			'typ' => 'JWT',
			'alg' => 'HS256',
			'kid' => 'buddyline-ticket',
		);
		$text   = Buddyline_Signature::base64url( wp_json_encode( $header ) ) . '.' . Buddyline_Signature::base64url( wp_json_encode( $claims, JSON_UNESCAPED_SLASHES ) );
		return $text . '.' . Buddyline_Signature::base64url( hash_hmac( 'sha256', $text, Buddyline_Signature::derive_key( $secret, 'tickets' ), true ) );
	}
}
