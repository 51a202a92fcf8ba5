<?php
/**
 * Starts the parts of the plugin, and stays quiet where BuddyBoss Platform is missing or too old.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * The plugin's start, activation and deactivation.
 */
final class Buddyline_Plugin {

	/**
	 * The oldest supported version of BuddyBoss Platform.
	 */
	const MINIMUM_BUDDYBOSS = '2.9.10';

	/**
	 * The version of the interface between the plugin and the server.
	 */
	const API = 1;

	/**
	 * The events of this PHP request.
	 *
	 * @var Buddyline_Queue|null
	 */
	private static $queue = null;

	/**
	 * Loads a class of the plugin.
	 *
	 * @param string $name Class name.
	 */
	public static function load_class( $name ) {
		if ( ! is_string( $name ) || 0 !== strpos( $name, 'Buddyline_' ) ) {
			return;
		}
		$file = __DIR__ . '/class-' . strtolower( str_replace( '_', '-', $name ) ) . '.php';
		if ( is_readable( $file ) ) {
			require_once $file;
		}
	}

	/**
	 * Whether a supported BuddyBoss Platform is active.
	 *
	 * @return bool
	 */
	public static function has_buddyboss() {
		return defined( 'BP_PLATFORM_VERSION' ) && version_compare( BP_PLATFORM_VERSION, self::MINIMUM_BUDDYBOSS, '>=' );
	}

	/**
	 * Registers everything that the plugin does.
	 */
	public static function start() {
		add_action( 'init', array( __CLASS__, 'load_translations' ), 1 );
		if ( ! self::has_buddyboss() ) {
			add_action( 'admin_notices', array( __CLASS__, 'print_missing_buddyboss' ) );
			add_action( 'network_admin_notices', array( __CLASS__, 'print_missing_buddyboss' ) );
			return;
		}
		self::$queue = new Buddyline_Queue();
		( new Buddyline_Hooks( self::$queue ) )->register();
		( new Buddyline_Sender( self::$queue ) )->register();
		( new Buddyline_Rest( self::$queue ) )->register();
		( new Buddyline_Call_Events() )->register();
		( new Buddyline_Settings() )->register();
		( new Buddyline_Feature_Card() )->register();
	}

	/**
	 * Loads the translations that come with the plugin.
	 */
	public static function load_translations() {
		load_plugin_textdomain( 'buddyline', false, dirname( plugin_basename( BUDDYLINE_FILE ) ) . '/languages' );
	}

	/**
	 * The events of this PHP request, for other parts and other plugins.
	 *
	 * @return Buddyline_Queue|null
	 */
	public static function queue() {
		return self::$queue;
	}

	/**
	 * Makes a secret, and lets the server forget what it learned before.
	 */
	public static function activate() {
		Buddyline_Options::ensure_secret();
		// Events were missed for as long as the plugin was off: the next request that sends begins
		// with a resync.
		Buddyline_State::add_missed( 1 );
		if ( ! wp_next_scheduled( Buddyline_Sender::RETRY ) ) {
			wp_schedule_single_event( time(), Buddyline_Sender::RETRY );
		}
	}

	/**
	 * Stops what is scheduled. The settings stay.
	 */
	public static function deactivate() {
		wp_clear_scheduled_hook( Buddyline_Sender::RETRY );
	}

	/**
	 * Tells those who can change it that BuddyBoss Platform is missing, on the plugins screen only.
	 */
	public static function print_missing_buddyboss() {
		$screen = function_exists( 'get_current_screen' ) ? get_current_screen() : null;
		if ( ! $screen || ! in_array( $screen->id, array( 'plugins', 'plugins-network' ), true ) || ! current_user_can( 'activate_plugins' ) ) {
			return;
		}
		printf(
			'<div class="notice notice-warning"><p>%s</p></div>',
			esc_html(
				sprintf(
					/* translators: %s: version number. */
					__( 'Buddyline does nothing yet: it needs BuddyBoss Platform %s or later.', 'buddyline' ),
					self::MINIMUM_BUDDYBOSS
				)
			)
		);
	}

	/**
	 * Logs a fault of the plugin, once in a request for each place. Never logs a secret or a message.
	 *
	 * @param string     $place Where it happened.
	 * @param \Throwable $error The fault.
	 */
	public static function log_fault( $place, $error ) {
		static $logged = array();
		if ( isset( $logged[ $place ] ) || count( $logged ) > 20 ) {
			return;
		}
		$logged[ $place ] = true;
		// phpcs:ignore WordPress.PHP.DevelopmentFunctions.error_log_error_log -- A page never fails because of the plugin, so its faults are only here.
		error_log( sprintf( 'buddyline: %s: %s in %s:%d', $place, get_class( $error ), basename( $error->getFile() ), $error->getLine() ) );
	}
}
