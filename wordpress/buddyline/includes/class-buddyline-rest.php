<?php
/**
 * The REST routes: tickets for members, and signed requests of the server.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * Routes of the namespace buddyline/v1.
 *
 * A member's route acts for the signed-in member only: it takes no user from the request. The other
 * routes act for nobody, and accept only what the server has signed.
 */
final class Buddyline_Rest {

	const SPACE = 'buddyline/v1';

	/**
	 * What the plugin can do, for the server.
	 */
	const FEATURES = array( 'events', 'tickets', 'calls', 'activity' );

	/**
	 * Longest body of a signed request.
	 */
	const MAX_BODY = 524288;

	/**
	 * Caching of tickets.
	 */
	const NO_STORE = 'no-store, private';

	/**
	 * Error code of a request without a valid signature.
	 */
	const UNAUTHORIZED = 'buddyline_unauthorized';

	/**
	 * The queue.
	 *
	 * @var Buddyline_Queue
	 */
	private $queue;

	/**
	 * The request that was verified last, and the result.
	 *
	 * @var array{0: WP_REST_Request|null, 1: true|WP_Error}
	 */
	private $verified = array( null, true );

	/**
	 * Keeps the queue.
	 *
	 * @param Buddyline_Queue $queue Queue.
	 */
	public function __construct( $queue ) {
		$this->queue = $queue;
	}

	/**
	 * Registers the hooks.
	 */
	public function register() {
		add_action( 'rest_api_init', array( $this, 'register_routes' ) );
		add_filter( 'bb_exclude_endpoints_from_restriction', array( $this, 'allow_signed_routes' ) );
		add_filter( 'rest_request_after_callbacks', array( $this, 'hide_reason' ), 99 );
	}

	/**
	 * The routes that the server calls.
	 *
	 * @return array<string, string> Method by route.
	 */
	private static function signed_routes() {
		return array(
			'status'     => 'post_status',
			'calls'      => 'post_calls',
			'activity'   => 'post_activity',
			'test-event' => 'post_test_event',
		);
	}

	/**
	 * Registers the routes.
	 */
	public function register_routes() {
		register_rest_route(
			self::SPACE,
			'/ticket',
			array(
				'methods'             => 'GET',
				'callback'            => array( $this, 'get_ticket' ),
				'permission_callback' => array( $this, 'may_get_ticket' ),
			)
		);
		register_rest_route(
			self::SPACE,
			'/status',
			array(
				'methods'             => 'GET',
				'callback'            => array( $this, 'get_status' ),
				'permission_callback' => '__return_true',
			)
		);
		foreach ( self::signed_routes() as $route => $method ) {
			register_rest_route(
				self::SPACE,
				'/' . $route,
				array(
					'methods'             => 'POST',
					'callback'            => array( $this, $method ),
					'permission_callback' => array( $this, 'is_signed' ),
				)
			);
		}
	}

	/**
	 * Lets the server through BuddyBoss's "Private REST APIs", which refuses requests without a user.
	 *
	 * @param mixed $routes Routes that are not refused.
	 * @return array
	 */
	public function allow_signed_routes( $routes ) {
		$routes = is_array( $routes ) ? $routes : array();
		foreach ( array_keys( self::signed_routes() ) as $route ) {
			$routes[] = '/' . self::SPACE . '/' . $route;
		}
		return $routes;
	}

	/**
	 * Whether the caller may have a ticket.
	 *
	 * @return true|WP_Error
	 */
	public function may_get_ticket() {
		if ( ! is_user_logged_in() ) {
			return new WP_Error( 'rest_not_logged_in', __( 'You are not currently logged in.', 'buddyline' ), array( 'status' => 401 ) );
		}
		if ( Buddyline_Site::is_suspended( get_current_user_id() ) ) {
			return new WP_Error( 'buddyline_suspended', __( 'Your account is suspended.', 'buddyline' ), array( 'status' => 403 ) );
		}
		return true;
	}

	/**
	 * A ticket for the signed-in member.
	 *
	 * @return WP_REST_Response|WP_Error
	 */
	public function get_ticket() {
		$secret = Buddyline_Options::ticket_secret();
		$url    = Buddyline_Options::url();
		if ( '' === $secret || '' === $url ) {
			return new WP_Error( 'buddyline_not_configured', __( 'The buddyline server is not set up on this site.', 'buddyline' ), array( 'status' => 503 ) );
		}
		$claims   = Buddyline_Ticket::claims( get_current_user_id(), Buddyline_Session::current(), time() );
		$response = new WP_REST_Response(
			array(
				'ticket'  => Buddyline_Ticket::encode( $claims, $secret ),
				'expires' => $claims['exp'],
				'url'     => $url,
			)
		);
		// WordPress sends its own header for members after that of the response, in old versions without
		// "no-store".
		$response->header( 'Cache-Control', self::NO_STORE );
		add_filter( 'nocache_headers', array( __CLASS__, 'forbid_storing' ), 99 );
		return $response;
	}

	/**
	 * Forbids caches to store a ticket.
	 *
	 * @param mixed $headers Headers against caching.
	 * @return array
	 */
	public static function forbid_storing( $headers ) {
		return array( 'Cache-Control' => self::NO_STORE ) + ( is_array( $headers ) ? $headers : array() );
	}

	/**
	 * The public status: that the plugin is there.
	 *
	 * @return array
	 */
	public function get_status() {
		return array(
			'plugin'  => 'buddyline',
			'version' => BUDDYLINE_VERSION,
			'api'     => Buddyline_Plugin::API,
		);
	}

	/**
	 * The full status, for the server.
	 *
	 * @return array
	 */
	public function post_status() {
		$state = Buddyline_State::load();
		if ( $state['missed'] > 0 ) {
			// The server is there: tell it now what it has missed.
			$this->queue->put( 'resync', array( 'type' => 'resync' ) );
		}
		return array(
			'version'   => BUDDYLINE_VERSION,
			'api'       => Buddyline_Plugin::API,
			'features'  => self::FEATURES,
			'site'      => Buddyline_Options::home(),
			'time'      => time(),
			'buddyboss' => defined( 'BP_PLATFORM_VERSION' ) ? BP_PLATFORM_VERSION : '',
			'server'    => array(
				'url'       => Buddyline_Options::events_url(),
				'lastOk'    => $state['last_ok'] > 0 ? $state['last_ok'] : null,
				'lastError' => '' !== $state['last_error'] && $state['failures'] > 0 ? $state['last_error'] : null,
				'missed'    => $state['missed'],
			),
		);
	}

	/**
	 * Calls that nobody could take.
	 *
	 * @param WP_REST_Request $request Request.
	 * @return array|WP_Error
	 */
	public function post_calls( $request ) {
		$events = self::list_of( $request, 'events', Buddyline_Call_Events::MAX_EVENTS );
		return is_wp_error( $events ) ? $events : array( 'accepted' => Buddyline_Call_Events::accept( $events, time() ) );
	}

	/**
	 * When members were last active.
	 *
	 * @param WP_REST_Request $request Request.
	 * @return array|WP_Error
	 */
	public function post_activity( $request ) {
		$users = self::list_of( $request, 'users', Buddyline_Activity::MAX_USERS );
		return is_wp_error( $users ) ? $users : array( 'accepted' => Buddyline_Activity::accept( $users, time() ) );
	}

	/**
	 * Sends a test event to the server, so that it can see whether events arrive.
	 *
	 * @param WP_REST_Request $request Request.
	 * @return array|WP_Error
	 */
	public function post_test_event( $request ) {
		$body  = self::body_of( $request );
		$token = isset( $body['token'] ) ? $body['token'] : null;
		if ( ! is_string( $token ) || 1 !== preg_match( '/^[A-Za-z0-9_-]{1,128}$/D', $token ) ) {
			return self::bad_request();
		}
		if ( ! Buddyline_Options::is_ready() ) {
			return array(
				'sent'   => false,
				'error'  => 'the plugin has no server address',
				'status' => 0,
			);
		}
		$answer = Buddyline_Sender::post_now(
			array(
				'type'  => 'test',
				'token' => $token,
			),
			3.0
		);
		if ( '' === $answer['error'] ) {
			return array(
				'sent'   => true,
				'status' => $answer['status'],
				'ms'     => $answer['ms'],
			);
		}
		return array(
			'sent'   => false,
			'error'  => $answer['error'],
			'status' => $answer['status'],
		);
	}

	/**
	 * Whether the server has signed a request.
	 *
	 * WordPress asks again for the Allow header of its response, and for other methods of the route: the
	 * first answer counts, because the id is accepted only once.
	 *
	 * @param WP_REST_Request $request Request.
	 * @return true|WP_Error
	 */
	public function is_signed( $request ) {
		if ( 'POST' !== $request->get_method() ) {
			return self::unauthorized();
		}
		if ( $request !== $this->verified[0] ) {
			$this->verified = array( $request, self::verify( $request ) );
		}
		return $this->verified[1];
	}

	/**
	 * The error without a reason.
	 *
	 * @return WP_Error
	 */
	private static function unauthorized() {
		return new WP_Error( self::UNAUTHORIZED, 'unauthorized', array( 'status' => 401 ) );
	}

	/**
	 * Verifies the signature of a request, and that it comes for the first time.
	 *
	 * @param WP_REST_Request $request Request.
	 * @return true|WP_Error
	 */
	private static function verify( $request ) {
		$now    = time();
		$reason = '';
		$body   = (string) $request->get_body();
		$keys   = array();
		foreach ( Buddyline_Options::secrets() as $secret ) {
			$keys[] = Buddyline_Signature::derive_key( $secret, 'requests' );
		}
		$verified = array( 'key' => -1 );
		if ( ! $keys ) {
			$reason = 'no secret';
		} elseif ( strlen( $body ) > self::MAX_BODY ) {
			$reason = 'too large';
		} else {
			$verified = Buddyline_Signature::verify( $keys, $request->get_header( 'buddyline_signature' ), $body, $now );
			$reason   = $verified['reason'];
		}
		if ( '' === $reason ) {
			$json = self::body_of( $request );
			if ( ! isset( $json['id'] ) || ! Buddyline_Signature::is_id( $json['id'] ) ) {
				$reason = 'malformed';
			} elseif ( ! Buddyline_Replay::accept( $json['id'], $now ) ) {
				$reason = 'replay';
			}
		}
		if ( '' !== $reason ) {
			self::note_refusal( $reason, $now );
			return self::unauthorized();
		}
		if ( ! empty( $json['self'] ) ) {
			// The plugin's own connection test says nothing about the server.
			return true;
		}
		if ( 0 === $verified['key'] && count( $keys ) > 1 ) {
			Buddyline_Options::confirm_secret();
		}
		$state = Buddyline_State::load();
		if ( $now - $state['last_request'] >= 60 ) {
			Buddyline_State::set( array( 'last_request' => $now ) );
		}
		return true;
	}

	/**
	 * Replaces the answer to a refused request by one that tells nothing.
	 *
	 * @param mixed $response Response.
	 * @return mixed
	 */
	public function hide_reason( $response ) {
		if ( is_wp_error( $response ) && self::UNAUTHORIZED === $response->get_error_code() ) {
			return new WP_REST_Response( array( 'error' => 'unauthorized' ), 401 );
		}
		return $response;
	}

	/**
	 * Keeps the last refusal for the settings page. At most one a minute is written.
	 *
	 * @param string $reason Reason.
	 * @param int    $now    Unix time.
	 */
	private static function note_refusal( $reason, $now ) {
		$state = Buddyline_State::load();
		if ( $now - $state['refused_at'] < 60 ) {
			return;
		}
		Buddyline_State::set(
			array(
				'refused_at'  => $now,
				'refused_why' => $reason,
			)
		);
		// phpcs:ignore WordPress.PHP.DevelopmentFunctions.error_log_error_log -- The operator looks for it there; at most one line a minute.
		error_log( 'buddyline: refused a request to the plugin: ' . $reason );
	}

	/**
	 * The JSON object of a request, as it was signed: never parameters of the address.
	 *
	 * @param WP_REST_Request $request Request.
	 * @return array Empty if it is none.
	 */
	private static function body_of( $request ) {
		$json = json_decode( (string) $request->get_body(), true, 16 );
		return is_array( $json ) ? $json : array();
	}

	/**
	 * A list in the body.
	 *
	 * @param WP_REST_Request $request Request.
	 * @param string          $name    Field.
	 * @param int             $limit   How long it may be.
	 * @return array|WP_Error
	 */
	private static function list_of( $request, $name, $limit ) {
		$body = self::body_of( $request );
		if ( ! isset( $body[ $name ] ) || ! is_array( $body[ $name ] ) || count( $body[ $name ] ) > $limit ) {
			return self::bad_request();
		}
		return $body[ $name ];
	}

	/**
	 * The error for a signed body of another shape.
	 *
	 * @return WP_Error
	 */
	private static function bad_request() {
		return new WP_Error( 'buddyline_bad_request', 'The body does not have the expected fields.', array( 'status' => 400 ) );
	}
}
