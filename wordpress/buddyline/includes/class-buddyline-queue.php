<?php
/**
 * Collects the events of one PHP request.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The events of this request, each once. An event may be completed late, when everything that belongs
 * to it is stored.
 */
final class Buddyline_Queue {

	/**
	 * How many events wait at most. Long processes, such as imports, send when it is reached.
	 */
	const LIMIT = 1000;

	/**
	 * Events by key.
	 *
	 * @var array<string, array{event: array, complete: callable|null}>
	 */
	private $events = array();

	/**
	 * Sends the events when the limit is reached.
	 *
	 * @var callable|null
	 */
	private $on_full = null;

	/**
	 * Sets what happens when the limit is reached.
	 *
	 * @param callable $callback Sends the events.
	 */
	public function on_full( $callback ) {
		$this->on_full = $callback;
	}

	/**
	 * Adds an event. It replaces an earlier one with the same key, and goes to the end.
	 *
	 * @param string        $key      What the event is about, such as one message, or one thread of one user.
	 * @param array         $event    The event.
	 * @param callable|null $complete Returns the complete event, or null if there is nothing to send.
	 */
	public function put( $key, $event, $complete = null ) {
		unset( $this->events[ $key ] );
		$this->events[ $key ] = array(
			'event'    => $event,
			'complete' => $complete,
		);
		if ( count( $this->events ) >= self::LIMIT && $this->on_full ) {
			call_user_func( $this->on_full );
		}
	}

	/**
	 * Whether an event with this key waits.
	 *
	 * @param string $key Key.
	 * @return bool
	 */
	public function has( $key ) {
		return isset( $this->events[ $key ] );
	}

	/**
	 * How many events wait.
	 *
	 * @return int
	 */
	public function count() {
		return count( $this->events );
	}

	/**
	 * Removes all events without completing them.
	 *
	 * @return int How many they were.
	 */
	public function drop() {
		$dropped      = count( $this->events );
		$this->events = array();
		return $dropped;
	}

	/**
	 * Takes all events and completes them.
	 *
	 * @return array{events: array[], lost: int} The events in order, and how many could not be completed.
	 */
	public function take() {
		$taken        = $this->events;
		$this->events = array();
		$events       = array();
		$lost         = 0;
		foreach ( $taken as $entry ) {
			$event = $entry['event'];
			try {
				if ( $entry['complete'] ) {
					$event = call_user_func( $entry['complete'], $event );
				}
				if ( is_array( $event ) ) {
					/**
					 * Changes an event before it is sent, or drops it.
					 *
					 * @param array|null $event Event; anything but an array drops it.
					 */
					$event = apply_filters( 'buddyline_event', $event );
				}
			} catch ( \Throwable $error ) {
				Buddyline_Plugin::log_fault( 'event', $error );
				++$lost;
				continue;
			}
			if ( is_array( $event ) && isset( $event['type'] ) ) {
				$events[] = $event;
			}
		}
		return array(
			'events' => $events,
			'lost'   => $lost,
		);
	}
}
