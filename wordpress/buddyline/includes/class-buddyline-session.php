<?php
/**
 * Names the login session of a request without revealing its token.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The `sid` of tickets and of `signed_out` events.
 */
final class Buddyline_Session {

	/**
	 * The session of the current request.
	 *
	 * @return string Empty if nobody is signed in.
	 */
	public static function current() {
		$password = function_exists( 'rest_get_authenticated_app_password' ) ? rest_get_authenticated_app_password() : null;
		if ( is_string( $password ) && '' !== $password ) {
			return self::of_application_password( $password );
		}
		$token = wp_get_session_token();
		if ( '' !== $token ) {
			return self::of_token( $token );
		}
		foreach ( array( 'HTTP_AUTHORIZATION', 'REDIRECT_HTTP_AUTHORIZATION' ) as $name ) {
			if ( ! empty( $_SERVER[ $name ] ) && is_string( $_SERVER[ $name ] ) ) {
				// phpcs:ignore WordPress.Security.ValidatedSanitizedInput -- Only its hash is used.
				return self::name( 'bearer', wp_unslash( $_SERVER[ $name ] ) );
			}
		}
		return is_user_logged_in() ? self::name( 'user', (string) get_current_user_id() ) : '';
	}

	/**
	 * The session of a cookie's token.
	 *
	 * @param string $token Token.
	 * @return string
	 */
	public static function of_token( $token ) {
		return '' === $token ? '' : self::of_verifier( hash( 'sha256', $token ) );
	}

	/**
	 * The session of a verifier: WordPress stores the SHA-256 of each token.
	 *
	 * @param string $verifier Verifier.
	 * @return string
	 */
	public static function of_verifier( $verifier ) {
		return self::name( 'cookie', $verifier );
	}

	/**
	 * The session of an application password.
	 *
	 * @param string $uuid Its id.
	 * @return string
	 */
	public static function of_application_password( $uuid ) {
		return self::name( 'application', $uuid );
	}

	/**
	 * Hashes a session.
	 *
	 * @param string $kind  Kind of session.
	 * @param string $value Value.
	 * @return string 32 hexadecimal digits.
	 */
	private static function name( $kind, $value ) {
		return substr( hash( 'sha256', 'buddyline ' . $kind . ' ' . $value ), 0, 32 );
	}
}
