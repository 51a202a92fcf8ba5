<?php
/**
 * Sends the events of a PHP request to the server, after the response where PHP can.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * Sends once, at shutdown, and not at all for a while after a failure.
 */
final class Buddyline_Sender {

	/**
	 * Action of WP-Cron that tells a server that is back what was missed.
	 */
	const RETRY = 'buddyline_retry';

	/**
	 * How long one request to the server may take, in seconds.
	 */
	const TIMEOUT = 0.5;

	/**
	 * How long all requests of one PHP request may take, in seconds.
	 */
	const TIME_LIMIT = 2.0;

	/**
	 * Longest body, and most events in it.
	 */
	const MAX_BODY   = 524288;
	const MAX_EVENTS = 1000;

	/**
	 * How much is left of the text of a message that is too long, in bytes.
	 */
	const CUT_TEXT = 65536;

	/**
	 * The queue.
	 *
	 * @var Buddyline_Queue
	 */
	private $queue;

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
		$this->queue->on_full( array( $this, 'flush' ) );
		// After all others: what they print must be sent before the response is finished, and their
		// events belong to this request.
		add_action( 'shutdown', array( $this, 'shut_down' ), PHP_INT_MAX );
		add_action( self::RETRY, array( $this, 'retry' ) );
	}

	/**
	 * Finishes the response, then sends.
	 */
	public function shut_down() {
		if ( 0 === $this->queue->count() ) {
			return;
		}
		try {
			self::finish_response();
		} catch ( \Throwable $error ) {
			Buddyline_Plugin::log_fault( 'finish', $error );
		}
		$this->flush();
	}

	/**
	 * Gives the browser its response, so that it does not wait for the server.
	 */
	private static function finish_response() {
		/**
		 * Whether the response may be finished before events are sent. Return false if another plugin
		 * prints something later than WordPress's shutdown action.
		 *
		 * @param bool $may_finish Default true.
		 */
		if ( ! apply_filters( 'buddyline_finish_response', true ) ) {
			return;
		}
		if ( function_exists( 'fastcgi_finish_request' ) ) {
			ignore_user_abort( true );
			fastcgi_finish_request();
		} elseif ( function_exists( 'litespeed_finish_request' ) ) {
			ignore_user_abort( true );
			litespeed_finish_request();
		}
	}

	/**
	 * Sends the queued events. Lets no exception out.
	 */
	public function flush() {
		try {
			$this->send( false );
		} catch ( \Throwable $error ) {
			Buddyline_Plugin::log_fault( 'send', $error );
		}
	}

	/**
	 * Tells a server that is back that events were missed, although there is no new one.
	 */
	public function retry() {
		try {
			$this->send( true );
		} catch ( \Throwable $error ) {
			Buddyline_Plugin::log_fault( 'retry', $error );
		}
	}

	/**
	 * Sends, or counts what is not sent.
	 *
	 * @param bool $is_retry Whether to send a resync that is due even without events.
	 */
	private function send( $is_retry ) {
		if ( ! Buddyline_Options::is_ready() ) {
			$this->queue->drop();
			return;
		}
		if ( 0 === $this->queue->count() && ! $is_retry ) {
			return;
		}
		$state = Buddyline_State::load();
		$now   = time();
		if ( $state['failures'] > 0 ) {
			$may_try = $state['retry_at'] <= $now
				&& Buddyline_State::claim_retry( $state['retry_at'], $now + Buddyline_State::pause( $state['failures'] + 1 ) );
			if ( ! $may_try ) {
				$dropped = $this->queue->drop();
				if ( $dropped > 0 ) {
					Buddyline_State::add_missed( $dropped );
				}
				return;
			}
		}
		$taken  = $this->queue->take();
		$events = $taken['events'];
		if ( $taken['lost'] > 0 ) {
			Buddyline_State::add_missed( $taken['lost'] );
			$state['missed'] += $taken['lost'];
		}
		if ( $state['missed'] > 0 ) {
			$events = self::with_resync( $events );
		}
		if ( $events ) {
			$this->post_all( $events, $state );
		}
	}

	/**
	 * Puts one resync in front.
	 *
	 * @param array[] $events Events.
	 * @return array[]
	 */
	private static function with_resync( $events ) {
		$others = array_filter(
			$events,
			function ( $event ) {
				return 'resync' !== $event['type'];
			}
		);
		return array_merge( array( array( 'type' => 'resync' ) ), array_values( $others ) );
	}

	/**
	 * Posts events in as many bodies as they need, and remembers the outcome.
	 *
	 * @param array[] $events Events.
	 * @param array   $state  The state before.
	 */
	private function post_all( $events, $state ) {
		$split  = self::split( $events );
		$bodies = $split['bodies'];
		$start  = microtime( true );
		$missed = $split['dropped'];
		$error  = '';
		$pause  = 0;
		$sent   = 0;
		if ( $bodies && $state['missed'] > 0 ) {
			// The resync in front stands for events that were counted before.
			--$bodies[0]['count'];
		}
		foreach ( $bodies as $body ) {
			if ( '' !== $error || microtime( true ) - $start > self::TIME_LIMIT ) {
				$missed += $body['count'];
				continue;
			}
			$answer = self::post( $body['json'], self::TIMEOUT );
			if ( 200 === $answer['status'] && $answer['is_server'] ) {
				++$sent;
				continue;
			}
			$error   = $answer['error'];
			$pause   = $answer['retry_after'];
			$missed += $body['count'];
		}
		$now = time();
		if ( $sent > 0 ) {
			$changes = array();
			if ( $now - $state['last_ok'] >= 60 || $state['failures'] > 0 ) {
				$changes['last_ok'] = $now;
			}
			if ( $state['failures'] > 0 && '' === $error ) {
				$changes['failures'] = 0;
				$changes['retry_at'] = 0;
			}
			if ( $changes ) {
				Buddyline_State::set( $changes );
			}
			if ( $state['missed'] > 0 ) {
				// The resync was in the first body. Others may have counted more since: subtract.
				Buddyline_State::add_missed( -$state['missed'] );
			}
		}
		if ( $missed > 0 ) {
			Buddyline_State::add_missed( $missed );
		}
		if ( '' !== $error ) {
			$failures = $state['failures'] + 1;
			$until    = $now + max( Buddyline_State::pause( $failures ), min( $pause, Buddyline_State::LONGEST_PAUSE ) );
			Buddyline_State::set(
				array(
					'failures'      => $failures,
					'retry_at'      => $until,
					'last_error'    => $error,
					'last_error_at' => $now,
				)
			);
			if ( ! wp_next_scheduled( self::RETRY ) ) {
				wp_schedule_single_event( $until, self::RETRY );
			}
		} elseif ( $missed > 0 && ! wp_next_scheduled( self::RETRY ) ) {
			wp_schedule_single_event( $now + 1, self::RETRY );
		}
	}

	/**
	 * Encodes events into bodies of at most MAX_BODY bytes and MAX_EVENTS events.
	 *
	 * A message that is too long for a body of its own is cut; other events of that size are dropped.
	 *
	 * @param array[] $events Events.
	 * @return array{bodies: array[], dropped: int}
	 */
	public static function split( $events ) {
		$bodies  = array();
		$parts   = array();
		$length  = 0;
		$dropped = 0;
		$room    = self::MAX_BODY - strlen( self::body( array() ) );
		foreach ( $events as $event ) {
			$json = self::encode( $event );
			if ( is_string( $json ) && strlen( $json ) > $room && 'message' === $event['type'] ) {
				$json = self::encode( self::cut( $event ) );
			}
			if ( ! is_string( $json ) || strlen( $json ) > $room ) {
				++$dropped;
				continue;
			}
			if ( $parts && ( $length + strlen( $json ) + 1 > $room || count( $parts ) >= self::MAX_EVENTS ) ) {
				$bodies[] = array(
					'json'  => self::body( $parts ),
					'count' => count( $parts ),
				);
				$parts    = array();
				$length   = 0;
			}
			$parts[] = $json;
			$length += strlen( $json ) + 1;
		}
		if ( $parts ) {
			$bodies[] = array(
				'json'  => self::body( $parts ),
				'count' => count( $parts ),
			);
		}
		return array(
			'bodies'  => $bodies,
			'dropped' => $dropped,
		);
	}

	/**
	 * Cuts the text of a message. Its tags go first, so that none is cut in two.
	 *
	 * @param array $event Message.
	 * @return array
	 */
	private static function cut( $event ) {
		$text = str_replace( '<', '&lt;', wp_strip_all_tags( isset( $event['text'] ) ? (string) $event['text'] : '' ) );
		if ( strlen( $text ) > self::CUT_TEXT ) {
			$text = substr( $text, 0, self::CUT_TEXT );
			// Neither a character nor an entity is cut in two.
			$text = preg_replace( '/(?:[\xc0-\xff][\x80-\xbf]*|&[#\w]{0,31})$/D', '', $text ) . '…';
		}
		$event['text'] = $text;
		$event['html'] = '<p>' . $text . '</p>';
		unset( $event['subject'] );
		$event['truncated'] = true;
		return $event;
	}

	/**
	 * Encodes a value. Bytes that are not UTF-8 become replacement characters.
	 *
	 * @param mixed $value Value.
	 * @return string|false
	 */
	private static function encode( $value ) {
		return wp_json_encode( $value, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE );
	}

	/**
	 * The body around encoded events.
	 *
	 * @param string[] $parts Encoded events.
	 * @return string
	 */
	private static function body( $parts ) {
		$head = self::encode(
			array(
				'id'     => Buddyline_Signature::new_id(),
				'sentAt' => time(),
				'site'   => Buddyline_Options::home(),
				'plugin' => BUDDYLINE_VERSION,
			)
		);
		return substr( $head, 0, -1 ) . ',"events":[' . implode( ',', $parts ) . ']}';
	}

	/**
	 * Posts one event at once, for tests of the connection.
	 *
	 * @param array $event   Event.
	 * @param float $timeout Seconds.
	 * @return array The answer, as post() gives it, with the milliseconds in `ms`.
	 */
	public static function post_now( $event, $timeout ) {
		$start        = microtime( true );
		$answer       = self::post( self::body( array( self::encode( $event ) ) ), $timeout );
		$answer['ms'] = (int) round( ( microtime( true ) - $start ) * 1000 );
		return $answer;
	}

	/**
	 * Posts a body.
	 *
	 * @param string $body    Body.
	 * @param float  $timeout Seconds.
	 * @return array{status: int, error: string, retry_after: int, is_server: bool, date: int, code: string}
	 *         An empty error if the server took it. `is_server` tells whether the answer is a
	 *         buddyline server's.
	 */
	private static function post( $body, $timeout ) {
		$url  = Buddyline_Options::events_url();
		$keys = array();
		foreach ( Buddyline_Options::secrets() as $secret ) {
			$keys[] = Buddyline_Signature::derive_key( $secret, 'events' );
		}
		// WordPress rounds timeouts below a second up, so the exact one is set on the handle.
		$limit = function ( $handle, $arguments, $asked ) use ( $url, $timeout ) {
			if ( $asked === $url && defined( 'CURLOPT_TIMEOUT_MS' ) ) {
				// phpcs:disable WordPress.WP.AlternativeFunctions.curl_curl_setopt -- This is WordPress's hook for it.
				curl_setopt( $handle, CURLOPT_NOSIGNAL, true );
				curl_setopt( $handle, CURLOPT_CONNECTTIMEOUT_MS, (int) ( $timeout * 1000 ) );
				curl_setopt( $handle, CURLOPT_TIMEOUT_MS, (int) ( $timeout * 1000 ) );
				// phpcs:enable
			}
		};
		add_action( 'http_api_curl', $limit, 99, 3 );
		try {
			$response = wp_remote_post(
				$url,
				array(
					'timeout'             => $timeout,
					'redirection'         => 0,
					'httpversion'         => '1.1',
					'user-agent'          => 'buddyline-wordpress/' . BUDDYLINE_VERSION,
					'limit_response_size' => 16384,
					'headers'             => array(
						'Content-Type'        => 'application/json',
						'Accept'              => 'application/json',
						'Buddyline-Signature' => Buddyline_Signature::sign( $keys, $body, time() ),
					),
					'body'                => $body,
				)
			);
		} finally {
			remove_action( 'http_api_curl', $limit, 99 );
		}
		$answer = array(
			'status'      => 0,
			'error'       => '',
			'retry_after' => 0,
			'is_server'   => false,
			'date'        => 0,
			'code'        => '',
		);
		if ( is_wp_error( $response ) ) {
			$answer['code']  = (string) $response->get_error_code();
			$answer['error'] = substr( (string) $response->get_error_message(), 0, 300 );
			if ( '' === $answer['error'] ) {
				$answer['error'] = 'no answer';
			}
			return $answer;
		}
		$json = json_decode( (string) wp_remote_retrieve_body( $response ), true );
		$wait = wp_remote_retrieve_header( $response, 'retry-after' );
		$date = wp_remote_retrieve_header( $response, 'date' );

		$answer['status']      = (int) wp_remote_retrieve_response_code( $response );
		$answer['is_server']   = is_array( $json ) && ( isset( $json['accepted'] ) || isset( $json['error'] ) );
		$answer['retry_after'] = is_string( $wait ) && ctype_digit( $wait ) ? (int) $wait : 0;
		$answer['date']        = is_string( $date ) && '' !== $date ? (int) strtotime( $date ) : 0;
		if ( 200 !== $answer['status'] || ! $answer['is_server'] ) {
			$answer['error'] = 200 === $answer['status'] ? 'the answer is not from a buddyline server' : 'HTTP ' . $answer['status'];
		}
		return $answer;
	}
}
