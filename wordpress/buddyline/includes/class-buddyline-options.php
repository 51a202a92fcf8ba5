<?php
/**
 * Reads and writes the settings, which belong to the main site of a network.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The plugin's settings.
 */
final class Buddyline_Options {

	/**
	 * How long the previous secret stays valid after a new one was made, in seconds.
	 */
	const OVERLAP = DAY_IN_SECONDS;

	/**
	 * Reads a setting.
	 *
	 * @param string $name     Name without prefix.
	 * @param mixed  $fallback Value if it is not set.
	 * @return mixed
	 */
	public static function get( $name, $fallback = '' ) {
		if ( is_multisite() ) {
			return get_blog_option( get_main_site_id(), 'buddyline_' . $name, $fallback );
		}
		return get_option( 'buddyline_' . $name, $fallback );
	}

	/**
	 * Writes a setting. Settings are not loaded with every page.
	 *
	 * @param string $name  Name without prefix.
	 * @param mixed  $value Value.
	 */
	public static function set( $name, $value ) {
		if ( is_multisite() ) {
			switch_to_blog( get_main_site_id() );
			update_option( 'buddyline_' . $name, $value, false );
			restore_current_blog();
			return;
		}
		update_option( 'buddyline_' . $name, $value, false );
	}

	/**
	 * The table with the options of the main site, for what must be atomic.
	 *
	 * @return string
	 */
	public static function table() {
		global $wpdb;
		return is_multisite() ? $wpdb->get_blog_prefix( get_main_site_id() ) . 'options' : $wpdb->options;
	}

	/**
	 * The site's address, as the server knows it: without a slash at the end.
	 *
	 * @return string
	 */
	public static function home() {
		$home = is_multisite() ? get_blog_option( get_main_site_id(), 'home', '' ) : get_option( 'home', '' );
		return untrailingslashit( (string) $home );
	}

	/**
	 * Whether a text can be a secret: 32 to 512 printable ASCII characters without
	 * spaces, as in the server.
	 *
	 * @param mixed $secret Text.
	 * @return bool
	 */
	public static function is_secret( $secret ) {
		return is_string( $secret ) && 1 === preg_match( '/^[\x21-\x7e]{32,512}$/D', trim( $secret ) );
	}

	/**
	 * Whether wp-config.php sets the secret.
	 *
	 * @return bool
	 */
	public static function is_secret_constant() {
		return defined( 'BUDDYLINE_SECRET' );
	}

	/**
	 * The secret that signs, or an empty text.
	 *
	 * @return string
	 */
	public static function secret() {
		$secret = self::is_secret_constant() ? BUDDYLINE_SECRET : self::get( 'secret' );
		return self::is_secret( $secret ) ? trim( $secret ) : '';
	}

	/**
	 * The secret before this one while it is still valid, or an empty text.
	 *
	 * @return string
	 */
	public static function previous_secret() {
		if ( self::is_secret_constant() ) {
			$previous = defined( 'BUDDYLINE_SECRET_PREVIOUS' ) ? BUDDYLINE_SECRET_PREVIOUS : '';
			return self::is_secret( $previous ) ? trim( $previous ) : '';
		}
		$previous = self::get( 'secret_previous', array() );
		if ( ! is_array( $previous ) || ! isset( $previous['secret'], $previous['until'] ) || time() >= (int) $previous['until'] ) {
			return '';
		}
		return self::is_secret( $previous['secret'] ) ? trim( $previous['secret'] ) : '';
	}

	/**
	 * All valid secrets, the newest first.
	 *
	 * @return string[]
	 */
	public static function secrets() {
		return array_values( array_filter( array( self::secret(), self::previous_secret() ), 'strlen' ) );
	}

	/**
	 * The secret for tickets. A ticket has one signature only: while a secret is rolled, the previous
	 * one signs until a request from the server has shown that it has the new one.
	 *
	 * @return string
	 */
	public static function ticket_secret() {
		$previous = self::previous_secret();
		if ( '' !== $previous && self::get( 'secret_confirmed' ) !== self::mark( self::secret() ) ) {
			return $previous;
		}
		return self::secret();
	}

	/**
	 * Remembers that the server has the newest secret.
	 */
	public static function confirm_secret() {
		$mark = self::mark( self::secret() );
		if ( self::get( 'secret_confirmed' ) !== $mark ) {
			self::set( 'secret_confirmed', $mark );
		}
	}

	/**
	 * Makes a secret if there is none.
	 */
	public static function ensure_secret() {
		if ( '' === self::secret() && ! self::is_secret_constant() ) {
			self::set( 'secret', bin2hex( random_bytes( 32 ) ) );
			self::set( 'secret_shown', '' );
		}
	}

	/**
	 * Makes a new secret. The one before stays valid for a day.
	 *
	 * @return string The new secret, or an empty text where wp-config.php sets it.
	 */
	public static function roll_secret() {
		if ( self::is_secret_constant() ) {
			return '';
		}
		$old = self::secret();
		if ( '' !== $old ) {
			self::set(
				'secret_previous',
				array(
					'secret' => $old,
					'until'  => time() + self::OVERLAP,
				)
			);
		}
		$new = bin2hex( random_bytes( 32 ) );
		self::set( 'secret', $new );
		self::set( 'secret_shown', '' );
		return $new;
	}

	/**
	 * The address of the server for browsers and apps: ws:// or wss://, or an empty text.
	 *
	 * @return string
	 */
	public static function url() {
		$url = defined( 'BUDDYLINE_URL' ) ? BUDDYLINE_URL : self::get( 'url' );
		return self::clean_url( $url, array( 'ws', 'wss' ) );
	}

	/**
	 * The address to which events are posted, or an empty text. The server takes them below any path, so
	 * that a proxy needs no other rule for them than for browsers.
	 *
	 * @return string
	 */
	public static function events_url() {
		$url  = defined( 'BUDDYLINE_EVENTS_URL' ) ? BUDDYLINE_EVENTS_URL : self::get( 'events_url' );
		$base = self::clean_url( $url, array( 'http', 'https' ) );
		if ( '' === $base ) {
			$base = self::clean_url( self::url(), array( 'http', 'https' ) );
		}
		return '' === $base ? '' : untrailingslashit( $base ) . '/site/events';
	}

	/**
	 * Checks an address, and gives it the wanted scheme: https:// becomes wss:// for browsers.
	 *
	 * @param mixed    $url     Address.
	 * @param string[] $schemes The plain and the encrypted scheme.
	 * @return string The address, or an empty text if it is none.
	 */
	public static function clean_url( $url, $schemes ) {
		if ( ! is_string( $url ) || strlen( $url ) > 500 ) {
			return '';
		}
		$url = trim( $url );
		if ( 1 !== preg_match( '#^(ws|http)(s?)://[^\s/?\#@"\'<>\\\\]+(/[^\s?\#"\'<>\\\\]*)?$#Di', $url, $match ) ) {
			return '';
		}
		$parts = wp_parse_url( $url );
		if ( ! is_array( $parts ) || empty( $parts['host'] ) ) {
			return '';
		}
		return $schemes[ '' === $match[2] ? 0 : 1 ] . substr( $url, strpos( $url, '://' ) );
	}

	/**
	 * Whether events can be sent.
	 *
	 * @return bool
	 */
	public static function is_ready() {
		return '' !== self::events_url() && '' !== self::secret();
	}

	/**
	 * A short mark of a secret that tells it from others and does not reveal it.
	 *
	 * @param string $secret Secret.
	 * @return string
	 */
	private static function mark( $secret ) {
		return substr( hash_hmac( 'sha256', 'buddyline mark', $secret ), 0, 16 );
	}
}
