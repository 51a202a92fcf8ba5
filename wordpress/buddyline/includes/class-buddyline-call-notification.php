<?php
/**
 * The notifications of calls, in BuddyBoss's own system.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * Registers the kinds of notifications, so that the bell, web push and the BuddyBoss App show them by
 * each member's own settings.
 */
final class Buddyline_Call_Notification extends BP_Core_Notification_Abstract {

	/**
	 * The one instance.
	 *
	 * @var self|null
	 */
	private static $instance = null;

	/**
	 * The one instance.
	 *
	 * @return self
	 */
	public static function instance() {
		if ( null === self::$instance ) {
			self::$instance = new self();
		}
		return self::$instance;
	}

	/**
	 * Starts when BuddyBoss does.
	 */
	public function __construct() {
		add_action( 'bp_init', array( $this, 'start' ), 5 );
	}

	/**
	 * Registers the group, the preference and the two notifications.
	 */
	public function load() {
		$this->register_notification_group(
			'buddyline',
			esc_html__( 'Calls', 'buddyline' ),
			esc_html__( 'Calls', 'buddyline' ),
			19
		);
		$this->register_notification_type(
			'buddyline_call_missed',
			esc_html__( 'You miss a call', 'buddyline' ),
			esc_html__( 'A member misses a call', 'buddyline' ),
			'buddyline'
		);
		$this->register_notification_type(
			'buddyline_call_offline',
			esc_html__( 'Someone calls you while you are offline', 'buddyline' ),
			esc_html__( 'A member is called while being offline', 'buddyline' ),
			'buddyline'
		);
		$this->register_notification( Buddyline_Call_Events::COMPONENT, 'buddyline_call_missed', 'buddyline_call_missed', 'bb-icon-f bb-icon-phone' );
		$this->register_notification( Buddyline_Call_Events::COMPONENT, 'buddyline_call_offline', 'buddyline_call_offline', 'bb-icon-f bb-icon-phone' );
		$this->register_notification_filter(
			esc_html__( 'Calls', 'buddyline' ),
			array( 'buddyline_call_missed', 'buddyline_call_offline' ),
			32
		);
	}

	/**
	 * The text and link of a notification.
	 *
	 * @param mixed  $content               Content so far.
	 * @param int    $item_id               Thread, or 0.
	 * @param int    $secondary_item_id     Caller.
	 * @param int    $total_items           How many of the same kind.
	 * @param string $component_action_name Action.
	 * @param string $component_name        Component.
	 * @param int    $notification_id       Notification.
	 * @param string $screen                Screen.
	 * @return mixed
	 */
	public function format_notification( $content, $item_id, $secondary_item_id, $total_items, $component_action_name, $component_name, $notification_id, $screen ) {
		if ( Buddyline_Call_Events::COMPONENT !== $component_name || ! in_array( $component_action_name, array( 'buddyline_call_missed', 'buddyline_call_offline' ), true ) ) {
			return $content;
		}
		$name = bp_core_get_user_displayname( $secondary_item_id );
		$link = '';
		if ( (int) $item_id > 0 && function_exists( 'bp_get_message_thread_view_link' ) ) {
			$notification = function_exists( 'bp_notifications_get_notification' ) ? bp_notifications_get_notification( $notification_id ) : null;
			$link         = bp_get_message_thread_view_link( (int) $item_id, $notification ? (int) $notification->user_id : 0 );
		}
		if ( ! is_string( $link ) || '' === $link ) {
			$link = bp_core_get_user_domain( $secondary_item_id );
		}
		if ( 'buddyline_call_offline' === $component_action_name ) {
			/* translators: %s: name of the caller. */
			$text = __( '%s called you while you were offline', 'buddyline' );
			if ( 'web_push' === $screen || 'app_push' === $screen ) {
				/* translators: %s: name of the caller. */
				$text = __( '%s is calling you', 'buddyline' );
			}
		} else {
			/* translators: %s: name of the caller. */
			$text = __( 'You missed a call from %s', 'buddyline' );
		}
		return array(
			'title' => $name,
			'text'  => sprintf( $text, $name ),
			'link'  => $link,
		);
	}
}
