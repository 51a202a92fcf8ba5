<?php
/**
 * Tells the site about calls to members who are offline, and about missed calls.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * Actions and notifications for calls.
 */
final class Buddyline_Call_Events {

	/**
	 * How many events a request may carry.
	 */
	const MAX_EVENTS = 100;

	/**
	 * Component of the notifications.
	 */
	const COMPONENT = 'buddyline';

	/**
	 * Registers the hooks.
	 */
	public function register() {
		// BuddyBoss starts kinds of notifications at priority 5.
		add_action( 'bp_init', array( $this, 'load_notification' ), 4 );
		add_action( 'buddyline_call_offline', array( __CLASS__, 'notify' ) );
		add_action( 'buddyline_call_missed', array( __CLASS__, 'notify' ) );
	}

	/**
	 * Registers the kinds of notifications where BuddyBoss has them.
	 */
	public function load_notification() {
		if ( class_exists( 'BP_Core_Notification_Abstract' ) && bp_is_active( 'notifications' ) ) {
			Buddyline_Call_Notification::instance();
		}
	}

	/**
	 * Checks events of the server, and raises an action for each.
	 *
	 * @param array $events Events.
	 * @param int   $now    Unix time.
	 * @return int How many were accepted.
	 */
	public static function accept( $events, $now ) {
		$accepted = 0;
		foreach ( $events as $event ) {
			$call = self::checked( $event, $now );
			if ( null === $call ) {
				continue;
			}
			++$accepted;
			try {
				if ( 'missed' === $call['type'] ) {
					/**
					 * A member missed a call.
					 *
					 * @param array $call type, callId, threadId (0 if none), callerId, calledId, at, group.
					 */
					do_action( 'buddyline_call_missed', $call );
				} else {
					/**
					 * A member who is not connected is called: the call rings now.
					 *
					 * @param array $call As above.
					 */
					do_action( 'buddyline_call_offline', $call );
				}
			} catch ( \Throwable $error ) {
				// Another plugin's fault in one call must not lose the others.
				Buddyline_Plugin::log_fault( 'call', $error );
			}
		}
		return $accepted;
	}

	/**
	 * Checks one event.
	 *
	 * @param mixed $event Event.
	 * @param int   $now   Unix time.
	 * @return array|null Null if it is none that the plugin knows.
	 */
	private static function checked( $event, $now ) {
		if ( ! is_array( $event ) || ! isset( $event['type'], $event['callId'], $event['callerId'], $event['calledId'], $event['at'] ) ) {
			return null;
		}
		$thread_id = isset( $event['threadId'] ) ? $event['threadId'] : 0;
		$has_ids   = is_int( $event['callerId'] ) && is_int( $event['calledId'] ) && is_int( $thread_id ) && is_int( $event['at'] )
			&& $event['callerId'] > 0 && $event['calledId'] > 0 && $thread_id >= 0 && $event['callerId'] !== $event['calledId'];
		if ( ! $has_ids || ! in_array( $event['type'], array( 'offline', 'missed' ), true ) || ! is_string( $event['callId'] ) || '' === $event['callId'] || strlen( $event['callId'] ) > 128 ) {
			return null;
		}
		return array(
			'type'     => $event['type'],
			'callId'   => $event['callId'],
			'threadId' => $thread_id,
			'callerId' => $event['callerId'],
			'calledId' => $event['calledId'],
			'at'       => min( $event['at'], $now ),
			'group'    => ! empty( $event['group'] ),
		);
	}

	/**
	 * Stores a notification. A missed call replaces the one that said that it rings.
	 *
	 * @param array $call Call.
	 */
	public static function notify( $call ) {
		if ( ! function_exists( 'bp_notifications_add_notification' ) || ! bp_is_active( 'notifications' ) ) {
			return;
		}
		if ( ! get_userdata( $call['calledId'] ) || ! get_userdata( $call['callerId'] ) || Buddyline_Site::blocked( $call['calledId'], 1, array( $call['callerId'] ) ) ) {
			return;
		}
		bp_notifications_delete_notifications_by_item_id( $call['calledId'], $call['threadId'], self::COMPONENT, 'buddyline_call_offline', $call['callerId'] );
		bp_notifications_add_notification(
			array(
				'user_id'           => $call['calledId'],
				'item_id'           => $call['threadId'],
				'secondary_item_id' => $call['callerId'],
				'component_name'    => self::COMPONENT,
				'component_action'  => 'buddyline_call_' . $call['type'],
				'date_notified'     => gmdate( 'Y-m-d H:i:s', $call['at'] ),
				'is_new'            => 1,
				'allow_duplicate'   => true,
			)
		);
	}
}
