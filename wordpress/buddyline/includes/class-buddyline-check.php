<?php
/**
 * Tests the connection in both directions, and says what is wrong and what to do.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The connection test.
 */
final class Buddyline_Check {

	/**
	 * How long each request may take, in seconds.
	 */
	const TIMEOUT = 5.0;

	/**
	 * Runs all tests.
	 *
	 * @return array[] Rows of `state` ("ok", "warning" or "error"), `title` and `text`.
	 */
	public static function run() {
		$rows   = array();
		$rows[] = self::check_secret();
		$rows[] = self::check_url();
		if ( Buddyline_Options::is_ready() ) {
			$start    = time();
			$answer   = Buddyline_Sender::post_now(
				array(
					'type'  => 'test',
					'token' => Buddyline_Signature::new_id(),
				),
				self::TIMEOUT
			);
			$rows[]   = self::judge_sending( $answer, $start );
			$is_there = '' === $answer['error'];
		} else {
			$is_there = false;
		}
		$rows[] = self::check_own_routes();
		$rows[] = self::judge_receiving( Buddyline_State::load(), time(), $is_there );
		return $rows;
	}

	/**
	 * A row.
	 *
	 * @param string $state State.
	 * @param string $title Title.
	 * @param string $text  What was found and what to do.
	 * @return array
	 */
	private static function row( $state, $title, $text ) {
		return array(
			'state' => $state,
			'title' => $title,
			'text'  => $text,
		);
	}

	/**
	 * Whether there is a secret.
	 *
	 * @return array
	 */
	private static function check_secret() {
		$title = __( 'Secret', 'buddyline' );
		if ( '' !== Buddyline_Options::secret() ) {
			return self::row( 'ok', $title, Buddyline_Options::is_secret_constant() ? __( 'BUDDYLINE_SECRET in wp-config.php is used.', 'buddyline' ) : __( 'The plugin has a secret.', 'buddyline' ) );
		}
		if ( Buddyline_Options::is_secret_constant() ) {
			return self::row( 'error', $title, __( 'BUDDYLINE_SECRET in wp-config.php is not valid: it needs 32 to 512 printable ASCII characters without spaces.', 'buddyline' ) );
		}
		return self::row( 'error', $title, __( 'The plugin has no secret. Make one below.', 'buddyline' ) );
	}

	/**
	 * Whether the address for browsers can work.
	 *
	 * @return array
	 */
	private static function check_url() {
		$title = __( 'Address for browsers', 'buddyline' );
		$url   = Buddyline_Options::url();
		if ( '' === $url ) {
			return self::row( 'error', $title, __( 'Enter the address of the server, for example wss://community.example/live.', 'buddyline' ) );
		}
		if ( 0 === strpos( $url, 'ws://' ) && 0 === strpos( Buddyline_Options::home(), 'https://' ) ) {
			return self::row( 'error', $title, __( 'The site uses HTTPS, so browsers refuse ws://. Enter an address with wss://.', 'buddyline' ) );
		}
		return self::row( 'ok', $title, $url );
	}

	/**
	 * Judges the answer to a test event.
	 *
	 * @param array $answer The answer, as Buddyline_Sender::post_now() gives it.
	 * @param int   $now    Unix time.
	 * @return array
	 */
	public static function judge_sending( $answer, $now ) {
		$title = __( 'Site to server', 'buddyline' );
		$url   = Buddyline_Options::events_url();
		if ( '' === $answer['error'] ) {
			/* translators: %d: milliseconds. */
			return self::row( 'ok', $title, sprintf( __( 'The server accepted a test event after %d ms.', 'buddyline' ), $answer['ms'] ) );
		}
		$skew = $answer['date'] > 0 ? abs( $answer['date'] - $now ) : 0;
		switch ( true ) {
			case 0 === $answer['status']:
				$text = self::judge_failure( $answer['error'], $url );
				break;
			case $answer['is_server'] && 401 === $answer['status'] && $skew > Buddyline_Signature::WINDOW:
				/* translators: %d: seconds. */
				$text = sprintf( __( 'The clocks of the site and the server differ by %d seconds; 300 are allowed. Set both by NTP.', 'buddyline' ), $skew );
				break;
			case $answer['is_server'] && 401 === $answer['status']:
				$text = __( 'The server has another secret. Copy the secret of this page into the server\'s file, and restart the server or make it read its secrets again.', 'buddyline' );
				break;
			case $answer['status'] >= 300 && $answer['status'] < 400:
				/* translators: 1: address, 2: HTTP status. */
				$text = sprintf( __( '%1$s redirects (HTTP %2$d). Enter the final address.', 'buddyline' ), $url, $answer['status'] );
				break;
			case 404 === $answer['status']:
				/* translators: %s: address. */
				$text = sprintf( __( 'There is nothing at %s. Either the proxy does not pass this path to the server, or the server is older than this plugin, or has no --site-secret-file.', 'buddyline' ), $url );
				break;
			case in_array( $answer['status'], array( 502, 504 ), true ):
				/* translators: %d: HTTP status. */
				$text = sprintf( __( 'The proxy cannot reach the server (HTTP %d). Check that the server runs and on which address it listens.', 'buddyline' ), $answer['status'] );
				break;
			case 429 === $answer['status'] || 503 === $answer['status']:
				/* translators: %d: HTTP status. */
				$text = sprintf( __( 'The server is busy or stops just now (HTTP %d). Try again in a minute.', 'buddyline' ), $answer['status'] );
				break;
			case 200 === $answer['status']:
				/* translators: %s: address. */
				$text = sprintf( __( 'Another web server answers at %s. Check the address.', 'buddyline' ), $url );
				break;
			case ! $answer['is_server']:
				/* translators: 1: HTTP status, 2: address. */
				$text = sprintf( __( 'Something in front of the server answers with HTTP %1$d: a firewall, a CDN or a security module that refuses POST requests. Allow %2$s for this site.', 'buddyline' ), $answer['status'], $url );
				break;
			default:
				/* translators: %d: HTTP status. */
				$text = sprintf( __( 'The server answers with HTTP %d. Its log says why.', 'buddyline' ), $answer['status'] );
		}
		return self::row( 'error', $title, $text );
	}

	/**
	 * Says why a request got no answer.
	 *
	 * @param string $error Error of WordPress's HTTP functions.
	 * @param string $url   Address.
	 * @return string
	 */
	private static function judge_failure( $error, $url ) {
		if ( preg_match( '/certificate|SSL|TLS/i', $error ) ) {
			/* translators: 1: address, 2: error. */
			return sprintf( __( 'TLS with %1$s fails: %2$s. The certificate must be valid for this name, and its authority known to PHP.', 'buddyline' ), $url, $error );
		}
		if ( preg_match( '/resolve|name lookup/i', $error ) ) {
			/* translators: 1: address, 2: error. */
			return sprintf( __( 'The name in %1$s is unknown: %2$s. Check the address.', 'buddyline' ), $url, $error );
		}
		if ( preg_match( '/refused|Failed to connect|couldn.t connect/i', $error ) ) {
			/* translators: 1: address, 2: error. */
			return sprintf( __( 'Nothing listens at %1$s: %2$s. Check that the server runs, and its port.', 'buddyline' ), $url, $error );
		}
		if ( preg_match( '/timed? ?out/i', $error ) ) {
			/* translators: 1: address, 2: error. */
			return sprintf( __( 'No answer from %1$s: %2$s. A firewall may drop the packets, or the server hangs.', 'buddyline' ), $url, $error );
		}
		/* translators: 1: address, 2: error. */
		return sprintf( __( 'The request to %1$s fails: %2$s.', 'buddyline' ), $url, $error );
	}

	/**
	 * Calls the plugin's own signed route over the site's public address, as the server does.
	 *
	 * @return array
	 */
	private static function check_own_routes() {
		$title  = __( 'Requests reach this site', 'buddyline' );
		$secret = Buddyline_Options::secret();
		if ( '' === $secret ) {
			return self::row( 'error', $title, __( 'Not tested: there is no secret.', 'buddyline' ) );
		}
		$url      = rest_url( Buddyline_Rest::SPACE . '/status' );
		$body     = wp_json_encode(
			array(
				'id'   => Buddyline_Signature::new_id(),
				'self' => true,
			)
		);
		$response = wp_remote_post(
			$url,
			array(
				'timeout'     => self::TIMEOUT,
				'redirection' => 0,
				'headers'     => array(
					'Content-Type'        => 'application/json',
					'Accept'              => 'application/json',
					'Buddyline-Signature' => Buddyline_Signature::sign( array( Buddyline_Signature::derive_key( $secret, 'requests' ) ), $body, time() ),
				),
				'body'        => $body,
			)
		);
		return self::judge_own_routes( $response, $title, $url );
	}

	/**
	 * Judges the answer of the plugin's own route.
	 *
	 * @param array|WP_Error $response Response.
	 * @param string         $title    Title of the row.
	 * @param string         $url      Address.
	 * @return array
	 */
	public static function judge_own_routes( $response, $title, $url ) {
		if ( is_wp_error( $response ) ) {
			/* translators: 1: address, 2: error. */
			return self::row( 'warning', $title, sprintf( __( 'The site cannot call itself at %1$s: %2$s. If the server runs on this machine, it has the same difficulty.', 'buddyline' ), $url, $response->get_error_message() ) );
		}
		$status = (int) wp_remote_retrieve_response_code( $response );
		$json   = json_decode( wp_remote_retrieve_body( $response ), true );
		if ( 200 === $status && is_array( $json ) && isset( $json['api'], $json['version'] ) ) {
			return self::row( 'ok', $title, __( 'A signed request to the plugin\'s own address came back with the right answer.', 'buddyline' ) );
		}
		if ( is_array( $json ) && isset( $json['error'] ) ) {
			return self::row( 'error', $title, __( 'The request arrived without its signature: a proxy or firewall in front of the site removes the header Buddyline-Signature or changes the body.', 'buddyline' ) );
		}
		if ( 404 === $status ) {
			/* translators: %s: address. */
			return self::row( 'error', $title, sprintf( __( 'There is no REST route at %s. Open Settings > Permalinks and save once, and check that no plugin switches the REST API off.', 'buddyline' ), $url ) );
		}
		/* translators: 1: address, 2: HTTP status. */
		return self::row( 'error', $title, sprintf( __( '%1$s answers with HTTP %2$d. A firewall, a CDN or a security plugin refuses POST requests to the REST API: allow /wp-json/buddyline/v1/ for the server.', 'buddyline' ), $url, $status ) );
	}

	/**
	 * Says when the server called last.
	 *
	 * @param array $state    State.
	 * @param int   $now      Unix time.
	 * @param bool  $is_there Whether the server has accepted an event just now.
	 * @return array
	 */
	public static function judge_receiving( $state, $now, $is_there ) {
		$title = __( 'Server to site', 'buddyline' );
		if ( $state['refused_at'] > $state['last_request'] && $now - $state['refused_at'] < HOUR_IN_SECONDS ) {
			$reasons = array(
				'clock'     => __( 'the clocks differ by more than 300 seconds', 'buddyline' ),
				'secret'    => __( 'its secret is not the one of this page', 'buddyline' ),
				'replay'    => __( 'it was sent twice', 'buddyline' ),
				'malformed' => __( 'it had no signature', 'buddyline' ),
				'too large' => __( 'it was too large', 'buddyline' ),
				'no secret' => __( 'the plugin has no secret', 'buddyline' ),
			);
			$reason  = isset( $reasons[ $state['refused_why'] ] ) ? $reasons[ $state['refused_why'] ] : $state['refused_why'];
			/* translators: 1: duration, 2: reason. */
			return self::row( 'error', $title, sprintf( __( 'A request was refused %1$s ago: %2$s.', 'buddyline' ), human_time_diff( $state['refused_at'], $now ), $reason ) );
		}
		if ( $state['last_request'] > 0 && $now - $state['last_request'] < DAY_IN_SECONDS ) {
			/* translators: %s: duration. */
			return self::row( 'ok', $title, sprintf( __( 'The last signed request arrived %s ago.', 'buddyline' ), human_time_diff( $state['last_request'], $now ) ) );
		}
		return self::row( $is_there ? 'warning' : 'error', $title, __( 'The server has not called this site in the last day. Run "buddyline doctor" on the server: it says whether it reaches the plugin.', 'buddyline' ) );
	}
}
